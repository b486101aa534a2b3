//! The walk through choices: depth first as apt's, with conflict-directed backjumping (Prosser 1993) where apt stops.
//!
//! Every chosen package carries the set of decisions that it hangs on. A dead end is the union of those sets over all
//! that makes each candidate impossible; the latest decision in it is the one to change, and the decisions between are
//! undone because they cannot help.

use super::{Base, Chain, Demand, Request, Solution, SolveError};
use crate::debian::packages::{Id, Index, MultiArch, Pin, Priority};
use crate::debian::relation::{Clause, Relation};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// Changed decisions until the search gives up. Real archives need a handful; this many take about a second.
const TRIES: usize = 20_000;

/// Decisions, by their place on the stack.
type Levels = Rc<BTreeSet<usize>>;

/// Work that is still to be done; shared tails make it cheap to go back to.
type Agenda = Option<Rc<Node>>;

struct Node {
    goal: Goal,
    next: Agenda,
}

#[derive(Clone)]
enum Goal {
    /// Choose what was asked for.
    Demand(usize),
    /// Follow the dependencies of what was asked for.
    Expand(usize),
    /// Answer a dependency; a soft one may stay unanswered.
    Clause { owner: Id, clause: Rc<Clause>, soft: bool },
}

struct Chosen {
    id: Id,
    levels: Levels,
    why: Why,
}

#[derive(Clone)]
enum Why {
    Asked(usize),
    Needed { owner: Id, clause: Rc<Clause> },
}

struct Decision {
    /// What to go on with when this is changed: the goal itself at its head.
    agenda: Agenda,
    remaining: Vec<Id>,
    chosen: usize,
    forbids: usize,
    /// What makes the candidates tried so far impossible.
    levels: BTreeSet<usize>,
    /// How the first candidate failed, which is the one that a person expects.
    cause: Option<SolveError>,
}

struct Search<'a> {
    index: &'a Index,
    request: &'a Request,
    demands: Vec<Demand>,
    /// Whether a demand is the request's, or the minimal system's.
    asked: Vec<bool>,
    wanted: HashMap<&'a str, Id>,
    by_name: HashMap<&'a str, usize>,
    chosen: Vec<Chosen>,
    /// Conflicts and Breaks of what is chosen, in its order.
    forbids: Vec<(Id, Relation)>,
    forbids_by_name: HashMap<String, Vec<usize>>,
    decisions: Vec<Decision>,
}

/// A chosen package that does not go with a candidate.
struct Blocker {
    place: usize,
    reason: String,
}

/// Finds the packages that answer `request`.
pub(super) fn run(index: &Index, request: &Request) -> Result<Solution, SolveError> {
    let mut search = Search {
        index,
        request,
        demands: vec![],
        asked: vec![],
        wanted: HashMap::new(),
        by_name: HashMap::new(),
        chosen: vec![],
        forbids: vec![],
        forbids_by_name: HashMap::new(),
        decisions: vec![],
    };
    let agenda = search.start()?;
    search.walk(agenda)?;
    search.solution()
}

fn push(goal: Goal, next: Agenda) -> Agenda {
    Some(Rc::new(Node { goal, next }))
}

impl<'a> Search<'a> {
    /// Finds what is asked for, and lays out the work: the essential packages with all they need, as they are installed
    /// first and without regard to the rest; then apt and the request.
    fn start(&mut self) -> Result<Agenda, SolveError> {
        let plain = |name: &str| Demand { name: name.into(), version: None, suite: None };
        let mut phases: Vec<Vec<(Demand, bool)>> = vec![vec![], vec![]];
        let asked: Vec<_> = self.request.packages.iter().map(|d| (d.clone(), true)).collect();
        for (demand, _) in &asked {
            let id = self.find(demand)?;
            self.wanted.insert(self.index.name(id), id);
        }
        if self.request.base != Base::Nothing {
            let mut names: Vec<&str> = self.index.iter().map(|id| self.index.name(id)).collect();
            names.dedup();
            names.retain(|name| !self.request.exclude.contains(*name));
            for name in names {
                let Some(id) = self.candidate(name) else { continue };
                let required = self.request.base == Base::Minbase
                    && self.index.priority(id) == Priority::Required
                    && self.index.listing(id).pin == Pin::Automatic;
                if self.index.is_essential(id) {
                    phases[0].push((plain(name), false));
                } else if required || name == "apt" {
                    phases[1].push((plain(name), false));
                }
            }
        }
        phases[1].extend(asked);
        let mut goals = vec![];
        for phase in phases {
            let start = self.demands.len();
            for (demand, asked) in phase {
                self.demands.push(demand);
                self.asked.push(asked);
            }
            goals.extend((start..self.demands.len()).map(Goal::Demand));
            goals.extend((start..self.demands.len()).map(Goal::Expand));
        }
        Ok(goals.into_iter().rev().fold(None, |next, goal| push(goal, next)))
    }

    /// The package that a demand means.
    fn find(&self, demand: &Demand) -> Result<Id, SolveError> {
        let versions = self.index.versions(&demand.name);
        let Some(first) = versions.first() else {
            let mut providers: Vec<_> = self.index.providers(&demand.name).map(|(id, _)| id).collect();
            providers.retain(|id| self.candidate(self.index.name(*id)) == Some(*id));
            providers.dedup();
            return match providers[..] {
                [only] => Ok(only),
                [] => Err(SolveError::Unknown {
                    name: demand.name.clone(),
                    similar: owned(self.index.similar(&demand.name)),
                }),
                _ => Err(SolveError::Virtual {
                    name: demand.name.clone(),
                    providers: owned(providers.iter().map(|id| self.index.name(*id)).collect()),
                }),
            };
        };
        let found = match (&demand.version, &demand.suite) {
            (Some(version), _) => versions.iter().find(|id| self.index.version(**id) == version),
            (None, Some(suite)) => versions.iter().find(|id| self.index.listing(**id).suites.contains(suite)),
            (None, None) => Some(first),
        };
        found.copied().ok_or_else(|| SolveError::NoVersion {
            demand: demand.clone(),
            known: versions
                .iter()
                .map(|id| {
                    let suite = self.index.listing(*id).suites.first().map_or("", String::as_str);
                    format!("{} ({suite})", self.index.version(*id))
                })
                .collect(),
        })
    }

    /// The version of `name` that apt would take.
    fn candidate(&self, name: &str) -> Option<Id> {
        self.wanted.get(name).or_else(|| self.index.versions(name).first()).copied()
    }

    /// Versions of `name` that may be chosen, the preferred one first: the candidate, then those of suites that somebody
    /// named for other packages.
    fn eligible(&self, name: &str) -> Vec<Id> {
        let mut all: Vec<Id> = self.candidate(name).into_iter().collect();
        if self.wanted.contains_key(name) {
            return all;
        }
        for id in self.index.versions(name).iter().skip(1) {
            let suites = &self.index.listing(*id).suites;
            if self.request.packages.iter().any(|d| d.suite.as_ref().is_some_and(|s| suites.contains(s))) {
                all.push(*id);
            }
        }
        all
    }

    fn walk(&mut self, mut agenda: Agenda) -> Result<(), SolveError> {
        let mut tries = 0;
        while let Some(node) = agenda {
            agenda = match self.step(&node)? {
                Ok(next) => next,
                Err((cause, levels)) => {
                    tries += 1;
                    if tries > TRIES {
                        return Err(SolveError::TooHard(TRIES));
                    }
                    self.go_back(cause, levels)?
                }
            };
        }
        Ok(())
    }

    /// Does the goal at the head of the agenda: what is to be done then, or a dead end and the decisions it hangs on.
    #[allow(clippy::type_complexity, reason = "a dead end is a value, an error ends the search")]
    fn step(&mut self, node: &Rc<Node>) -> Result<Result<Agenda, (SolveError, BTreeSet<usize>)>, SolveError> {
        let candidates = match &node.goal {
            Goal::Expand(demand) => {
                let Some(id) = self.find(&self.demands[*demand]).ok() else {
                    return Ok(Ok(node.next.clone()));
                };
                return Ok(Ok(self.dependencies(id, node.next.clone())?));
            }
            Goal::Demand(demand) => {
                let id = self.find(&self.demands[*demand])?;
                let id = self.candidate(self.index.name(id)).unwrap_or(id);
                if self.is_chosen(id) {
                    return Ok(Ok(node.next.clone()));
                }
                vec![id]
            }
            Goal::Clause { clause, .. } => {
                if self.is_satisfied(clause) {
                    return Ok(Ok(node.next.clone()));
                }
                self.candidates(clause)
            }
        };
        self.choose(node, candidates, BTreeSet::new(), None)
    }

    /// Takes the first of `candidates` that goes with what is chosen. `levels` and `cause` tell of candidates before these.
    #[allow(clippy::type_complexity, reason = "as in step")]
    fn choose(
        &mut self,
        node: &Rc<Node>,
        candidates: Vec<Id>,
        mut levels: BTreeSet<usize>,
        mut cause: Option<SolveError>,
    ) -> Result<Result<Agenda, (SolveError, BTreeSet<usize>)>, SolveError> {
        let (owner_levels, why) = match &node.goal {
            Goal::Clause { owner, clause, .. } => {
                (self.levels_of(*owner), Why::Needed { owner: *owner, clause: clause.clone() })
            }
            Goal::Demand(demand) | Goal::Expand(demand) => (Levels::default(), Why::Asked(*demand)),
        };
        levels.extend(owner_levels.iter());
        let soft = matches!(node.goal, Goal::Clause { soft: true, .. });
        for (i, id) in candidates.iter().enumerate() {
            if self.request.exclude.contains(self.index.name(*id)) {
                cause.get_or_insert_with(|| SolveError::Excluded {
                    chain: self.chain_of(&why),
                    wanted: self.index.name(*id).into(),
                });
                continue;
            }
            if let Some(blocker) = self.blocker(*id)? {
                levels.extend(self.chosen[blocker.place].levels.iter());
                let mut chain = self.chain_of(&why);
                if let Why::Needed { clause, .. } = &why {
                    chain.0.push(self.link(*id, clause));
                }
                cause.get_or_insert_with(|| SolveError::Conflict {
                    chain,
                    other: self.chain(self.chosen[blocker.place].id),
                    reason: blocker.reason,
                });
                continue;
            }
            let remaining = candidates[i + 1..].to_vec();
            let mut reasons = levels.clone();
            if soft || !remaining.is_empty() {
                reasons.insert(self.decisions.len());
                self.decisions.push(Decision {
                    agenda: Some(node.clone()),
                    remaining,
                    chosen: self.chosen.len(),
                    forbids: self.forbids.len(),
                    levels,
                    cause,
                });
            }
            let expand = matches!(node.goal, Goal::Clause { .. });
            self.take(*id, Rc::new(reasons), why)?;
            let next = node.next.clone();
            return Ok(Ok(if expand { self.dependencies(*id, next)? } else { next }));
        }
        if soft {
            return Ok(Ok(node.next.clone()));
        }
        let cause = cause.unwrap_or_else(|| self.nothing(&node.goal));
        Ok(Err((cause, levels)))
    }

    /// Changes the latest decision that has a part in a dead end.
    fn go_back(&mut self, cause: SolveError, mut levels: BTreeSet<usize>) -> Result<Agenda, SolveError> {
        let mut cause = cause;
        loop {
            let Some(level) = levels.pop_last() else { return Err(cause) };
            self.decisions.truncate(level + 1);
            let Some(decision) = self.decisions.pop() else { return Err(cause) };
            self.undo(decision.chosen, decision.forbids);
            levels.extend(decision.levels);
            let first = decision.cause.unwrap_or(cause);
            let Some(node) = decision.agenda else { return Err(first) };
            match self.choose(&node, decision.remaining, levels, Some(first))? {
                Ok(agenda) => return Ok(agenda),
                Err((next, more)) => (cause, levels) = (next, more),
            }
        }
    }

    fn take(&mut self, id: Id, levels: Levels, why: Why) -> Result<(), SolveError> {
        let index = self.index;
        self.by_name.insert(index.name(id), self.chosen.len());
        self.chosen.push(Chosen { id, levels, why });
        for clause in index.relations(id)?.conflicts {
            for relation in clause.alternatives() {
                if self.is_ours(relation) {
                    self.forbids_by_name.entry(relation.name.clone()).or_default().push(self.forbids.len());
                    self.forbids.push((id, relation.clone()));
                }
            }
        }
        Ok(())
    }

    fn undo(&mut self, chosen: usize, forbids: usize) {
        for gone in self.chosen.drain(chosen..) {
            self.by_name.remove(self.index.name(gone.id));
        }
        for (_, relation) in self.forbids.drain(forbids..).rev() {
            if let Some(places) = self.forbids_by_name.get_mut(&relation.name) {
                places.pop();
            }
        }
    }

    /// The dependencies of `id` before `next`.
    fn dependencies(&self, id: Id, next: Agenda) -> Result<Agenda, SolveError> {
        let relations = self.index.relations(id)?;
        let soft = if self.request.recommends { relations.recommends } else { vec![] };
        let hard = relations.depends.into_iter().map(|c| (c, false));
        let all: Vec<_> = hard.chain(soft.into_iter().map(|c| (c, true))).collect();
        let goal = |(clause, soft)| Goal::Clause { owner: id, clause: Rc::new(clause), soft };
        Ok(all.into_iter().rev().fold(next, |next, clause| push(goal(clause), next)))
    }

    /// Whether a relation is about this architecture at all.
    fn is_ours(&self, relation: &Relation) -> bool {
        let own = self.index.arch().oci();
        relation.qualifier.as_deref().is_none_or(|q| ["any", "native", "all", own].contains(&q))
    }

    /// Whether a package may stand for a relation, by its architecture: `:any` is only for those that allow it.
    fn admits_arch(&self, relation: &Relation, id: Id) -> bool {
        match relation.qualifier.as_deref() {
            Some("any") => self.index.multi_arch(id) == MultiArch::Allowed,
            _ => self.is_ours(relation),
        }
    }

    fn is_chosen(&self, id: Id) -> bool {
        self.place(id).is_some()
    }

    fn place(&self, id: Id) -> Option<usize> {
        self.by_name.get(self.index.name(id)).copied().filter(|place| self.chosen[*place].id == id)
    }

    fn levels_of(&self, id: Id) -> Levels {
        self.place(id).map(|place| self.chosen[place].levels.clone()).unwrap_or_default()
    }

    fn is_satisfied(&self, clause: &Clause) -> bool {
        clause.alternatives().iter().any(|relation| {
            let real = self.by_name.get(relation.name.as_str()).is_some_and(|place| {
                let id = self.chosen[*place].id;
                relation.admits(self.index.version(id)) && self.admits_arch(relation, id)
            });
            real || self.index.providers(&relation.name).any(|(id, version)| {
                relation.admits_provided(version) && self.is_chosen(id) && self.admits_arch(relation, id)
            })
        })
    }

    /// What could answer a clause, in apt's order of preference.
    fn candidates(&self, clause: &Clause) -> Vec<Id> {
        let mut all = vec![];
        for relation in clause.alternatives() {
            let eligible = self.eligible(&relation.name).into_iter();
            all.extend(
                eligible
                    .filter(|id| relation.admits(self.index.version(*id)) && self.admits_arch(relation, *id)),
            );
            let mut providers: Vec<Id> = self
                .index
                .providers(&relation.name)
                .filter(|(id, version)| relation.admits_provided(*version) && self.admits_arch(relation, *id))
                .map(|(id, _)| id)
                .filter(|id| self.eligible(self.index.name(*id)).contains(id))
                .collect();
            // apt's CompareProviders; its last resort is the order in its cache, ours the name.
            providers.sort_by_key(|id| {
                let i = self.index;
                let automatic = i.listing(*id).pin == Pin::Automatic;
                (
                    !automatic,
                    !i.is_essential(*id),
                    !i.is_protected(*id),
                    i.priority(*id),
                    i.name(*id),
                    Reverse(*id),
                )
            });
            all.extend(providers);
        }
        let mut seen = BTreeSet::new();
        all.retain(|id| seen.insert(*id));
        all
    }

    /// The first chosen package that `id` does not go with.
    fn blocker(&self, id: Id) -> Result<Option<Blocker>, SolveError> {
        let index = self.index;
        let (name, version) = (index.name(id), index.version(id));
        if let Some(place) = self.by_name.get(name) {
            let other = index.version(self.chosen[*place].id);
            let reason = format!("only one version of {name} can be installed, {other} or {version}");
            return Ok((self.chosen[*place].id != id).then_some(Blocker { place: *place, reason }));
        }
        let says = |by: Id, relation: &Relation| {
            format!("{} {} conflicts with or breaks {relation}", index.name(by), index.version(by))
        };
        // What is chosen against the new one, under its own name and those it provides.
        let names = std::iter::once((name, true, None));
        for (called, real, provided) in
            names.chain(index.provided_by(id).into_iter().map(|(n, v)| (n, false, v)))
        {
            for place in self.forbids_by_name.get(called).into_iter().flatten() {
                let (by, relation) = &self.forbids[*place];
                let holds = if real { relation.admits(version) } else { relation.admits_provided(provided) };
                if holds && let Some(place) = self.place(*by) {
                    return Ok(Some(Blocker { place, reason: says(*by, relation) }));
                }
            }
        }
        // The new one against what is chosen; a package may conflict with what itself provides.
        for clause in index.relations(id)?.conflicts {
            for relation in clause.alternatives().iter().filter(|r| self.is_ours(r)) {
                let real = self.by_name.get(relation.name.as_str()).copied();
                let real = real.filter(|place| relation.admits(index.version(self.chosen[*place].id)));
                let mut providers = index.providers(&relation.name);
                let place = real.or_else(|| {
                    providers.find_map(|(other, v)| self.place(other).filter(|_| relation.admits_provided(v)))
                });
                if let Some(place) = place {
                    return Ok(Some(Blocker { place, reason: says(id, relation) }));
                }
            }
        }
        Ok(None)
    }

    /// Why a goal has no candidate at all.
    fn nothing(&self, goal: &Goal) -> SolveError {
        let Goal::Clause { owner, clause, .. } = goal else { return SolveError::TooHard(0) };
        let first = &clause.alternatives()[0].name;
        let mut nearest = vec![];
        for relation in clause.alternatives() {
            let best = self.index.versions(&relation.name).iter();
            nearest.extend(best.map(|id| format!("{} {}", relation.name, self.index.version(*id))).take(2));
            let provided = self.index.providers(&relation.name).take(2).map(|(id, version)| {
                let version = version.map_or(String::new(), |v| format!(" (= {v})"));
                format!("{}, which provides {}{version}", self.index.name(id), relation.name)
            });
            nearest.extend(provided);
        }
        let similar = if nearest.is_empty() { owned(self.index.similar(first)) } else { vec![] };
        SolveError::Nothing { chain: self.chain(*owner), wanted: clause.to_string(), nearest, similar }
    }

    fn chain(&self, id: Id) -> Chain {
        match self.place(id).map(|place| &self.chosen[place].why) {
            None => Chain(vec![self.index.name(id).into()]),
            Some(Why::Needed { owner, clause }) => {
                let mut chain = self.chain(*owner);
                chain.0.push(self.link(id, clause));
                chain
            }
            Some(why) => self.chain_of(why),
        }
    }

    /// The way to whoever needs or asks.
    fn chain_of(&self, why: &Why) -> Chain {
        match why {
            Why::Needed { owner, .. } => self.chain(*owner),
            Why::Asked(demand) => {
                let who = if self.asked[*demand] { "you asked" } else { "part of every system" };
                Chain(vec![format!("{} ({who})", self.demands[*demand])])
            }
        }
    }

    /// A dependency, and what was chosen for it where that is not plain.
    fn link(&self, id: Id, clause: &Clause) -> String {
        let name = self.index.name(id);
        match clause.alternatives() {
            [only] if only.name == name => only.to_string(),
            _ => format!("{clause} [{name}]"),
        }
    }

    fn solution(&self) -> Result<Solution, SolveError> {
        let mut chosen: Vec<Id> = self.chosen.iter().map(|c| c.id).collect();
        chosen.sort_by_key(|id| self.index.name(*id));
        let because: BTreeMap<_, _> =
            chosen.iter().map(|id| (self.index.name(*id).into(), self.chain(*id))).collect();
        let packages = chosen.iter().map(|id| self.index.package(*id)).collect::<Result<_, _>>()?;
        Ok(Solution { packages, because })
    }
}

fn owned(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(Into::into).collect()
}
