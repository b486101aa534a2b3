//! `forge fleet`: the endpoint, and what operators say to it.

use super::args::{FleetDir, FleetNaming, FleetVerb};
use super::{Session, key};
use crate::enroll::DeviceId;
use crate::enroll::claim::State;
use crate::enroll::policy::Endorsement;
use crate::error::{self, Kind, Mark as _};
use crate::fleet::operator::{self, Order, Shown, Wanted};
use crate::fleet::server::Server;
use crate::fleet::{Home, Store};
use crate::host::clock;
use crate::model::Epoch;
use anyhow::{Context as _, anyhow};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The actor of the audit.
const ACTOR: &str = "operator (command line)";

/// Runs a verb of the fleet's endpoint.
pub fn run(session: &Session, verb: FleetVerb) -> anyhow::Result<()> {
    match verb {
        FleetVerb::Init { dir, naming } => init(session, &dir, &naming).map(drop),
        FleetVerb::Serve { dir, trust, threshold, listen, naming } => {
            serve(session, &dir, &trust, threshold, listen, &naming)
        }
        FleetVerb::List { at, state, find, limit } => list(session, &at, state.as_deref(), find, limit),
        FleetVerb::Show { at, device } => {
            let shown = operator::show(&store(&at)?, &device.device).kind(Kind::Input)?;
            session.ui.result("device", &shown, told(session, &shown));
            Ok(())
        }
        FleetVerb::Approve { at, device } => {
            order(session, &at, |find| Ok(Order::Approve { device: find(&device.device)? }))
        }
        FleetVerb::Deny { at, device, reason } => {
            order(session, &at, |find| Ok(Order::Deny { device: find(&device.device)?, reason }))
        }
        FleetVerb::Revoke { at, device, reason } => {
            order(session, &at, |find| Ok(Order::Revoke { device: find(&device.device)?, reason }))
        }
        FleetVerb::Replace { at, old, new } => order(session, &at, |find| {
            Ok(Order::Replace { old: find(&old)?, new: new.as_deref().map(find).transpose()? })
        }),
        FleetVerb::Window { at, minutes, boxes, batch } => {
            order(session, &at, |_| Ok(Order::Window { minutes, boxes, batch }))
        }
        FleetVerb::Withdraw { at, kind, id, reason } => {
            order(session, &at, |_| Ok(Order::Bar { kind, id, reason }))
        }
        FleetVerb::Backup { at, file } => {
            store(&at)?
                .copy_to(&file)
                .with_context(|| format!("copying the database to {}", file.display()))?;
            session.ui.result("backup", &serde_json::json!({ "file": file }), file.display());
            Ok(())
        }
    }
}

fn init(session: &Session, dir: &Path, naming: &FleetNaming) -> anyhow::Result<Home> {
    let named = dir.file_name().and_then(|name| name.to_str()).unwrap_or("fleet");
    let name = naming.name.as_deref().unwrap_or(named);
    let home = Home::init(dir, name, &naming.host).kind(Kind::Input)?;
    let public = home.path("fleet.json");
    session.ui.result(
        "fleet",
        &serde_json::json!({ "fleet": name, "dir": dir, "description": public, "token": home.path("operator.token") }),
        format!(
            "{}\nfleet {name}: bundles take {}, operators {}",
            dir.display(),
            public.display(),
            home.path("operator.token").display()
        ),
    );
    Ok(home)
}

fn serve(
    session: &Session,
    dir: &Path,
    trust: &[PathBuf],
    threshold: usize,
    listen: SocketAddr,
    naming: &FleetNaming,
) -> anyhow::Result<()> {
    let home = if dir.join("fleet.json").exists() { Home::open(dir)? } else { init(session, dir, naming)? };
    if !trust.is_empty() {
        let roots = trust.iter().map(|path| key::public(&path.to_string_lossy()));
        home.set_roots(&roots.collect::<anyhow::Result<Vec<_>>>()?)?;
    }
    if home.roots()?.is_empty() {
        return Err(error::of(Kind::Input, anyhow!("nothing says whose bundles are believed")))
            .hint("give the fleet's root key: --trust keys/fleet-root.pub");
    }
    let voice = session.ui.voice();
    let server = Server::bind(&home, threshold, listen, Box::new(move |words| voice(words)))?;
    let address = server.address()?;
    let public = home.public()?;
    session.ui.result(
        "listening",
        &serde_json::json!({ "fleet": public.fleet, "address": address, "spki_sha256": public.spki_sha256 }),
        format!(
            "fleet {} at https://{address}/ (the page; its token is in {})",
            public.fleet,
            home.path("operator.token").display()
        ),
    );
    server.run(&session.cancel)
}

fn store(at: &FleetDir) -> anyhow::Result<Store> {
    Home::open(&at.dir)
        .kind(Kind::Input)
        .hint("say where the endpoint's directory is with --dir; from elsewhere, use its page")?
        .store()
}

/// Carries out the order that `make` makes; it is given a way to find devices by name.
fn order(
    session: &Session,
    at: &FleetDir,
    make: impl FnOnce(&dyn Fn(&str) -> anyhow::Result<DeviceId>) -> anyhow::Result<Order>,
) -> anyhow::Result<()> {
    let store = store(at)?;
    let find = |name: &str| Ok(operator::show(&store, name)?.row.device.id);
    let order = make(&find).kind(Kind::Input)?;
    let done = operator::carry_out(&store, order.clone(), ACTOR, clock::now()).kind(Kind::Input)?;
    session.ui.result("done", &serde_json::json!({ "order": order, "done": done }), done);
    Ok(())
}

fn list(
    session: &Session,
    at: &FleetDir,
    state: Option<&str>,
    find: String,
    limit: u32,
) -> anyhow::Result<()> {
    let now = clock::now();
    let state = state.and_then(|s| State::ALL.into_iter().find(|known| known.as_str() == s));
    let listing = operator::list(&store(at)?, &Wanted { state, q: find, offset: 0, limit }, now)?;
    let mut human = String::new();
    for row in &listing.devices {
        let device = &row.device;
        human += &format!(
            "{}  {:20}  {}  {:35}  {}\n",
            painted(session, device.state),
            device.node.as_deref().or(device.r#ref.as_deref()).unwrap_or("-"),
            &device.id.as_str()[..11],
            row.words,
            device.reason,
        );
    }
    let shown = listing.devices.len();
    session.ui.result("devices", &listing, human);
    let counts: Vec<String> =
        listing.counts.iter().filter(|(_, n)| **n > 0).map(|(state, n)| format!("{n} {state}")).collect();
    session.ui.note(if counts.is_empty() { "no box has claimed yet".into() } else { counts.join(", ") });
    if listing.total > shown as u64 {
        session.ui.note(format!(
            "{shown} of {} shown: narrow with --state and --find, or raise --limit",
            listing.total
        ));
    }
    Ok(())
}

fn painted(session: &Session, state: State) -> String {
    let sgr = match state {
        State::Pending => "33",
        State::Approved => "34",
        State::Joined => "32",
        State::Denied => "90",
        State::Quarantined => "31;1",
        State::Revoked => "35",
    };
    session.ui.paint(sgr, &format!("{:11}", state.as_str()))
}

fn told(session: &Session, shown: &Shown) -> String {
    let device = &shown.row.device;
    let facts = &device.facts;
    let mut text =
        format!("{}\n{}  {}\n", device.id, painted(session, device.state).trim_end(), device.reason);
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            text += &format!("  {name:12} {value}\n");
        }
    };
    line("words", shown.row.words.clone());
    line(
        "node",
        device.node.clone().or(device.former.clone().map(|f| format!("none; was {f}"))).unwrap_or_default(),
    );
    if let Some(ek) = &device.ek {
        let how = match device.endorsement {
            Endorsement::Known => "known",
            _ => "proved, of a maker that is not known",
        };
        line("tpm", format!("{how}, {ek}"));
    }
    line("score", format!("{} {}", device.points, device.fits.join(", ")));
    line("model", facts.model.clone());
    line("serial", facts.serial.clone().unwrap_or_default());
    line("addresses", facts.macs.join(", "));
    line(
        "bundle",
        format!(
            "{}, serial {}, {}",
            device.bundle,
            device.serial,
            device.batch.as_deref().unwrap_or("no batch")
        ),
    );
    line("generation", format!("{} granted, {} on its disk", device.generation, device.acked));
    line("agent", format!("{}, boot {}", device.agent, device.boots));
    line("seen", format!("{} to {}", device.first_seen.rfc3339(), device.last_seen.rfc3339()));
    let mut times: Vec<(Epoch, String)> =
        shown.audit.iter().map(|e| (e.at, format!("{} by {}: {}", e.action, e.actor, e.detail))).collect();
    times.extend(shown.events.iter().map(|e| {
        let code = e.code.map(|code| format!(" {code}")).unwrap_or_default();
        (e.at, format!("{}{code} {}", e.kind, e.detail))
    }));
    times.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    for (at, what) in times {
        text += &format!("  {}  {what}\n", at.rfc3339());
    }
    text
}
