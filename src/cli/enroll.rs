//! `forge enroll bundle`, `forge explain`.

use super::args::{BundleArgs, EnrollVerb, Selection};
use super::{Session, compose, key};
use crate::carrier;
use crate::enroll::bootstrap::{DevicePolicy, Mode};
use crate::enroll::issue::{Description, Order};
use crate::enroll::{self, Code, inventory};
use crate::error::{self, Kind, Mark as _};
use crate::fleet::Home;
use crate::host::{clock, fs};
use crate::model::Epoch;
use crate::profile::{EnrollMode, Profile, Ticket};
use crate::sign::key_ref::KeyRef;
use crate::sign::{PublicKey, Signer, certificate};
use anyhow::{Context as _, anyhow};
use std::path::{Path, PathBuf};

/// Runs a verb of enrollment.
pub fn run(session: &Session, verb: EnrollVerb) -> anyhow::Result<()> {
    match verb {
        EnrollVerb::Bundle(args) => bundle(session, &args),
        EnrollVerb::Export(args) => super::export::run(session, &args),
        EnrollVerb::Answer { requests, dir, out } => answer(session, &requests, &dir, &out),
    }
}

/// Makes bundles.
fn bundle(session: &Session, args: &BundleArgs) -> anyhow::Result<()> {
    let profile = compose::load(session, &args.profile, &args.set, &Selection::default())?;
    if profile.enroll.mode != EnrollMode::Fleet {
        let error = anyhow!("{} does not enrol with a fleet", args.profile.display());
        return Err(error::of(Kind::Input, error)).hint("set `mode = \"fleet\"` in [enroll]");
    }
    let root = root_key(&profile, args.key.as_deref())?;
    trusted(&profile, root.public_key())?;
    let now = clock::now();
    let order = order(&profile, args, now)?;
    lasting(&order)?;
    let bundles = enroll::issue(&order, &*root).map_err(|e| error::of(Kind::Input, e.into()))?;
    let out = args.out.clone().unwrap_or_else(|| {
        Path::new("dist").join(profile.name().as_str()).join("enroll").join(order.serial.to_string())
    });
    if fs::exists(&out) {
        return Err(error::of(Kind::Input, anyhow!("{} is there already", out.display())))
            .hint("bundles are made into a new directory: name another with --out");
    }
    carrier::write(&bundles, args.carrier, now, &out)?;
    let names: Vec<&str> = bundles.iter().map(|b| b.name.as_str()).collect();
    let human = format!(
        "{}\n{} {} of fleet {}, serial {}, to be used first by {}",
        out.display(),
        names.len(),
        if names.len() == 1 { "bundle" } else { "bundles" },
        order.fleet.fleet,
        order.serial,
        lapse(&order).rfc3339(),
    );
    session.ui.result(
        "bundles",
        &serde_json::json!({ "path": out, "fleet": order.fleet.fleet, "serial": order.serial, "names": names,
            "use-first-by": lapse(&order).rfc3339() }),
        human,
    );
    Ok(())
}

/// The last instant of a first use.
fn lapse(order: &Order) -> Epoch {
    Epoch(order.issued_at.0 + i64::from(order.shelf_life_days) * 86_400)
}

fn order(profile: &Profile, args: &BundleArgs, now: Epoch) -> anyhow::Result<Order> {
    let enroll = &profile.enroll;
    let beside = |path: &str| profile.dir().join(path);
    let fleet = args.fleet.clone().or_else(|| enroll.fleet.as_ref().map(|f| beside(f.as_str())));
    let fleet = fleet.ok_or_else(|| anyhow!("nothing says which fleet it is for")).kind(Kind::Input).hint(
        "run `forge fleet init DIR`, then set `fleet = \"DIR/fleet.json\"` in [enroll] or give --fleet",
    )?;
    let rows = match args.inventory.clone().or_else(|| enroll.inventory.as_ref().map(|f| beside(f.as_str())))
    {
        Some(path) => rows(&path)?,
        None => vec![],
    };
    let mode = match enroll.ticket {
        Ticket::Device => Mode::Device,
        Ticket::Batch => Mode::Batch,
        Ticket::None => Mode::IdentityOnly,
    };
    let ntp = profile.arch.values().next().map(|a| a.os.ntp.iter().map(|h| h.as_str().into()).collect());
    Ok(Order {
        fleet: description(&fleet)?,
        endpoints: enroll.endpoints.iter().map(|e| e.as_str().into()).collect(),
        profile: profile.name().as_str().into(),
        mode,
        batch: args.batch.clone(),
        max_claims: args.boxes,
        serial: args.serial.unwrap_or(u64::try_from(now.0).unwrap_or_default()),
        issued_at: now,
        shelf_life_days: enroll.shelf_life.get(),
        rows,
        proxy: enroll.proxy.clone(),
        proxy_ca: enroll.proxy_ca.as_ref().map(|f| text(&beside(f.as_str()))).transpose()?,
        ntp: ntp.unwrap_or_default(),
        policy: DevicePolicy {
            require_tpm: enroll.require_tpm,
            splay_s: enroll.splay.get(),
            support_text: enroll.support.clone().unwrap_or_default(),
            portal: enroll.portal.as_ref().map(|p| p.as_str().into()),
        },
    })
}

/// A text file that a person named.
pub(super) fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display())).kind(Kind::Input)
}

fn description(path: &Path) -> anyhow::Result<Description> {
    serde_json::from_str(&text(path)?)
        .with_context(|| format!("reading the fleet's description {}", path.display()))
        .kind(Kind::Input)
}

/// The boxes of an inventory.
pub(super) fn rows(path: &Path) -> anyhow::Result<Vec<inventory::Row>> {
    let bytes =
        std::fs::read(path).with_context(|| format!("reading {}", path.display())).kind(Kind::Input)?;
    inventory::parse(&bytes).map_err(|faults| {
        // A wrong export has a fault in each of its thousand lines.
        const SHOWN: usize = 20;
        let mut told: Vec<String> = faults.iter().take(SHOWN).map(|f| format!("  {f}")).collect();
        if faults.len() > SHOWN {
            told.push(format!("  and {} more", faults.len() - SHOWN));
        }
        error::of(Kind::Input, anyhow!("{} is wrong:\n{}", path.display(), told.join("\n")))
    })
}

/// The fleet's root key: as given, else the private half of the first key that the image trusts.
fn root_key(profile: &Profile, given: Option<&str>) -> anyhow::Result<Box<dyn Signer>> {
    match (given, profile.enroll.trust.first()) {
        (Some(given), _) => key::named(given),
        (None, Some(trust)) => {
            key::open(&KeyRef::File(profile.dir().join(trust.as_str()).with_extension("key")))
        }
        (None, None) => Err(error::of(Kind::Input, anyhow!("the profile trusts no fleet root"))),
    }
}

/// A bundle that the image would refuse is not made.
fn trusted(profile: &Profile, root: &PublicKey) -> anyhow::Result<()> {
    for path in &profile.enroll.trust {
        let path = profile.dir().join(path.as_str());
        let key = PublicKey::from_pem(&text(&path)?);
        if key.with_context(|| format!("reading {}", path.display())).kind(Kind::Input)? == *root {
            return Ok(());
        }
    }
    let error = anyhow!("the image does not trust the key {}", root.key_id());
    Err(error::of(Kind::Input, error)).hint("sign with the private half of a key in `enroll.trust`")
}

/// Nothing that ships may lapse before the box can be plugged in.
fn lasting(order: &Order) -> anyhow::Result<()> {
    let needed = lapse(order);
    for (what, pem) in
        [("the proxy's authority", &order.proxy_ca), ("the fleet's authority", &order.fleet.ca_pem)]
    {
        let Some(pem) = pem else { continue };
        let until =
            certificate::valid_until(pem).with_context(|| format!("reading {what}")).kind(Kind::Input)?;
        if until < needed {
            let (until, needed) = (until.rfc3339(), needed.rfc3339());
            let error = anyhow!("{what} lapses on {until}, and a box may first be plugged in on {needed}");
            return Err(error::of(Kind::Input, error))
                .hint("renew the certificate, or shorten `enroll.shelf-life`");
        }
    }
    Ok(())
}

/// Answers requests of boxes without a network.
fn answer(session: &Session, requests: &[PathBuf], dir: &Path, out: &Path) -> anyhow::Result<()> {
    let home = Home::open(dir).kind(Kind::Input).hint("--dir says where the fleet's directory is")?;
    let service = home.service(1)?;
    let mut waiting = 0;
    for path in requests {
        let answered = read_request(path)
            .and_then(|bytes| service.answer_offline(&bytes, clock::now()))
            .with_context(|| format!("answering {}", path.display()))
            .kind(Kind::Verify)?;
        let device = &answered.device;
        let file = answered.grant.as_ref().map(|_| out.join(enroll::bundle::grant_name(device)));
        let human = match (&answered.grant, &file) {
            (Some(grant), Some(file)) => {
                fs::write_atomic(file, &serde_json::to_vec(grant)?, 0o644)
                    .with_context(|| format!("writing {}", file.display()))?;
                format!("{device}  granted: {}", file.display())
            }
            _ => {
                waiting += 1;
                format!("{device}  {}: {} ({})", answered.state.as_str(), answered.reason, answered.words)
            }
        };
        session.ui.result(
            "answer",
            &serde_json::json!({ "device": device, "state": answered.state, "words": answered.words,
                "reason": answered.reason, "grant": file }),
            human,
        );
    }
    if waiting > 0 {
        session
            .ui
            .note("those that wait: compare the words, `forge fleet approve DEVICE`, then answer again");
    }
    Ok(())
}

fn read_request(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = vec![];
    // A stick is hostile: one byte more than a request may have is enough to refuse it.
    fs::open_regular(path)?.take(enroll::MAX_BODY as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Tells what a code means, or all of them.
pub fn explain(session: &Session, code: Option<&str>) -> anyhow::Result<()> {
    let codes = match code {
        Some(code) => vec![code.parse::<Code>().kind(Kind::Input).hint("`forge explain` lists them all")?],
        None => Code::ALL.to_vec(),
    };
    let short = code.is_none();
    for code in codes {
        let human = if short {
            format!("{:<12} {}", code.id(), code.title())
        } else {
            format!("{}: {}\n\n{}\n\nWhat to do: {}", code.id(), code.title(), code.cause(), code.remedy())
        };
        session.ui.result(
            "code",
            &serde_json::json!({ "code": code.id(), "title": code.title(), "cause": code.cause(),
                "remedy": code.remedy(), "needs-a-person": code.needs_a_person() }),
            human,
        );
    }
    Ok(())
}
