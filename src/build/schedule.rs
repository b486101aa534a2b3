//! Walks a plan's steps over worker threads: a step runs when its inputs are there, at most once per key on this machine.

use super::cache::{Entry, Lookup};
use super::observe::Event;
use super::{Built, Env, recipe};
use crate::plan::{Plan, Step, StepId};
use anyhow::Context as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// What the workers share.
struct Progress {
    waiting: BTreeSet<StepId>,
    done: BTreeMap<StepId, Entry>,
    running: usize,
    failed: Option<anyhow::Error>,
}

/// Makes every step of `plan`, or finds it in the cache. The first failure stops the others between their pieces of
/// work; what was finished stays in the cache.
///
/// # Errors
/// What the failing step says, with its name; [`Interrupted`](crate::error::Kind::Interrupted) when cancelled.
pub fn run(plan: &Plan, env: &Env<'_>) -> anyhow::Result<Built> {
    // Of this build alone: a step that fails is not a person who pressed Ctrl-C.
    let stop = env.cancel.for_part();
    let env = &Env { cancel: &stop, ..*env };
    let progress = Mutex::new(Progress {
        waiting: plan.steps.iter().map(|s| s.id.clone()).collect(),
        done: BTreeMap::new(),
        running: 0,
        failed: None,
    });
    let changed = Condvar::new();
    std::thread::scope(|scope| {
        for _ in 0..env.jobs.max(1) {
            scope.spawn(|| work(plan, env, &progress, &changed));
        }
    });
    let progress = progress.into_inner().unwrap_or_else(PoisonError::into_inner);
    match progress.failed {
        Some(error) => Err(error),
        None => Ok(Built { entries: progress.done }),
    }
}

fn work(plan: &Plan, env: &Env<'_>, progress: &Mutex<Progress>, changed: &Condvar) {
    let mut state = progress.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if state.failed.is_some() || state.waiting.is_empty() {
            return;
        }
        // Plan order is topological and puts what others wait for longest first.
        let ready = plan.steps.iter().find(|s| {
            state.waiting.contains(&s.id) && s.recipe.inputs().iter().all(|i| state.done.contains_key(*i))
        });
        let Some(step) = ready else {
            if state.running == 0 {
                state.failed = Some(anyhow::anyhow!("the plan's steps wait for each other"));
                changed.notify_all();
                return;
            }
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        state.waiting.remove(&step.id);
        state.running += 1;
        let inputs: BTreeMap<StepId, Entry> = step
            .recipe
            .inputs()
            .into_iter()
            .filter_map(|i| Some((i.clone(), state.done.get(i)?.clone())))
            .collect();
        drop(state);
        let made = make(step, &inputs, plan, env).with_context(|| format!("making {}", step.id));
        state = progress.lock().unwrap_or_else(PoisonError::into_inner);
        state.running -= 1;
        match made {
            Ok(entry) => drop(state.done.insert(step.id.clone(), entry)),
            Err(error) => {
                // The first failure is the cause; what follows from its cancellation is not.
                if state.failed.is_none() {
                    state.failed = Some(error);
                    env.cancel.cancel();
                }
            }
        }
        changed.notify_all();
    }
}

fn make(step: &Step, inputs: &BTreeMap<StepId, Entry>, plan: &Plan, env: &Env<'_>) -> anyhow::Result<Entry> {
    env.cancel.check()?;
    let start = Instant::now();
    let finished = |cached| {
        env.observer.event(Event::Finished { step: step.id.as_str(), cached, took: start.elapsed() })
    };
    let mut damaged = None;
    let mut find = || -> anyhow::Result<Option<Entry>> {
        match env.cache.lookup(&step.key)? {
            Lookup::Hit(entry) => return Ok(Some(*entry)),
            Lookup::Damaged { output } => damaged = Some(output),
            Lookup::Miss => {}
        }
        Ok(None)
    };
    if let Some(entry) = find()? {
        finished(true);
        return Ok(entry);
    }
    let _lock = env.cache.lock(&step.key)?;
    // Another process may have made it while this one waited.
    if let Some(entry) = find()? {
        finished(true);
        return Ok(entry);
    }
    if let Some(output) = damaged {
        let note = format!("{}: {output} in the cache was damaged, making it again", step.id);
        env.observer.event(Event::Note(&note));
    }
    env.observer.event(Event::Started { step: step.id.as_str(), what: step.recipe.what() });
    let mut stage = env.cache.stage(&step.key, step.id.as_str())?;
    recipe::run(
        &step.recipe,
        &mut recipe::Kitchen {
            step: &step.id,
            key: step.key,
            inputs,
            epoch: plan.epoch,
            env,
            stage: &mut stage,
        },
    )?;
    env.cancel.check()?;
    let entry = env.cache.commit(&step.key, stage)?;
    env.cache.remember(step)?;
    finished(false);
    Ok(entry)
}
