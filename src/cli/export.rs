//! `forge enroll export`: a profile's boxes as seeds of other systems.

use super::args::{ExportArgs, SeedFormat, Selection};
use super::enroll::{rows, text};
use super::{Session, compose};
use crate::carrier;
use crate::enroll::inventory::Row;
use crate::error::{self, Kind, Mark as _};
use crate::host::{clock, fs};
use crate::profile::{AgentKind, ExportElemental, ExportFlightctl, KeySource, Profile};
use crate::seed::{self, Elemental, Emitted, Flightctl, Joins, Palette, Seed};
use anyhow::{Context as _, anyhow};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Writes a seed for each box of the inventory.
pub fn run(session: &Session, args: &ExportArgs) -> anyhow::Result<()> {
    let profile = compose::load(session, &args.profile, &args.set, &Selection::default())?;
    let inventory = inventory(&profile, args.inventory.as_deref())?;
    let joins = joins(&profile, args.format)?;
    let mut seeds: Vec<(String, Emitted)> = vec![];
    let mut left_out = BTreeSet::new();
    for row in rows(&inventory)? {
        let seed = seed(&profile, row)?;
        left_out.extend(seed.unsaid(&joins));
        let emitted = seed::emit(&seed, &joins).map_err(|e| error::of(Kind::Input, e.into()))?;
        seeds.push((seed.name, emitted));
    }
    let out = args.out.clone().unwrap_or_else(|| {
        let name = args.format.as_str();
        Path::new("dist").join(profile.name().as_str()).join("export").join(name)
    });
    if fs::exists(&out) {
        return Err(error::of(Kind::Input, anyhow!("{} is there already", out.display())))
            .hint("seeds are made into a new directory: name another with --out");
    }
    carrier::write_seeds(&seeds, args.image, clock::now(), &out)?;
    if !left_out.is_empty() {
        let words = left_out.into_iter().collect::<Vec<_>>().join(", ");
        session.ui.note(format!("{} has no words for the boxes' {words}: not told", args.format.as_str()));
    }
    let names: Vec<&str> = seeds.iter().map(|(name, _)| name.as_str()).collect();
    let human = format!(
        "{}\n{} {} for {}",
        out.display(),
        names.len(),
        if names.len() == 1 { "seed" } else { "seeds" },
        joins.reader(),
    );
    session.ui.result(
        "seeds",
        &serde_json::json!({ "path": out, "format": args.format.as_str(), "names": names }),
        human,
    );
    Ok(())
}

fn inventory(profile: &Profile, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let named =
        profile.export.as_ref().and_then(|e| e.inventory.as_ref()).or(profile.enroll.inventory.as_ref());
    match (given, named) {
        (Some(path), _) => Ok(path.into()),
        (None, Some(file)) => Ok(profile.dir().join(file.as_str())),
        (None, None) => Err(error::of(Kind::Input, anyhow!("nothing says which boxes there are")))
            .hint("set `inventory = \"devices.csv\"` in [export], or give --inventory"),
    }
}

/// What the profile and a row of the inventory say of one box.
fn seed(profile: &Profile, row: Row) -> anyhow::Result<Seed> {
    let beside = |path: &str| profile.dir().join(path);
    let export = profile.export.as_ref();
    let mut authorities = vec![];
    let own = export.map(|e| e.authorities.as_slice()).unwrap_or_default();
    for file in own.iter().chain(&profile.enroll.proxy_ca) {
        authorities.push(text(&beside(file.as_str()))?);
    }
    // What stands below [os] is a person's or a place's, and so the same for every architecture but by an exception.
    let os = profile.arch.values().next().map(|arch| &arch.os);
    let mut labels = profile.site.labels.clone();
    labels.extend(row.device.labels);
    Ok(Seed {
        name: row.device.r#ref,
        labels,
        users: os
            .into_iter()
            .flat_map(|os| &os.user)
            .map(|user| (user.name.to_string(), user.ssh_keys.iter().map(|key| key.to_string()).collect()))
            .collect(),
        timezone: os.map(|os| os.timezone.as_str().to_string()).unwrap_or_default(),
        ntp: os.into_iter().flat_map(|os| &os.ntp).map(|host| host.to_string()).collect(),
        network: row.network,
        port: row.port,
        proxy: export.and_then(|e| e.proxy.clone()).or_else(|| profile.enroll.proxy.clone()),
        authorities,
    })
}

/// The format's own settings, its secrets read now and from where the profile says.
fn joins(profile: &Profile, format: SeedFormat) -> anyhow::Result<Joins> {
    let export = profile.export.as_ref();
    let missing = |table: &str| {
        let error = anyhow!("the profile has no table [export.{table}]");
        error::of(Kind::Input, error)
    };
    Ok(match format {
        SeedFormat::Nocloud => match palette(profile)? {
            Some(palette) => Joins::Palette(palette),
            None => Joins::Nocloud,
        },
        SeedFormat::Ignition => Joins::Ignition,
        SeedFormat::Combustion => Joins::Combustion,
        SeedFormat::Flightctl => {
            let agent = export.and_then(|e| e.flightctl.as_ref());
            Joins::Flightctl(flightctl(profile, agent.ok_or_else(|| missing("flightctl"))?)?)
        }
        SeedFormat::Elemental => {
            let registration = export.and_then(|e| e.elemental.as_ref());
            Joins::Elemental(elemental(profile, registration.ok_or_else(|| missing("elemental"))?)?)
        }
    })
}

fn palette(profile: &Profile) -> anyhow::Result<Option<Palette>> {
    let Some(agent) = profile.arch.values().map(|arch| &arch.agent).find(|a| a.kind == AgentKind::Palette)
    else {
        return Ok(None);
    };
    let token = profile.export.as_ref().and_then(|e| e.palette.as_ref());
    Ok(Some(Palette {
        stylus: agent.config.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect(),
        token: token.map(|palette| secret(profile, &palette.token)).transpose()?,
    }))
}

fn flightctl(profile: &Profile, agent: &ExportFlightctl) -> anyhow::Result<Flightctl> {
    let beside = |path: &str| text(&profile.dir().join(path));
    Ok(Flightctl {
        server: agent.server.to_string(),
        authority: agent.ca.as_ref().map(|file| beside(file.as_str())).transpose()?,
        ui: agent.ui.as_ref().map(|url| url.to_string()),
        certificate: beside(agent.certificate.as_str())?,
        key: secret(profile, &agent.key)?,
    })
}

fn elemental(profile: &Profile, registration: &ExportElemental) -> anyhow::Result<Elemental> {
    let url = secret(profile, &registration.url)?;
    if !url.starts_with("https://") || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        // The text is not repeated: its last part is a token.
        let error = anyhow!("{} is no https URL", registration.url);
        return Err(error::of(Kind::Input, error));
    }
    Ok(Elemental {
        url,
        authority: registration
            .ca
            .as_ref()
            .map(|file| text(&profile.dir().join(file.as_str())))
            .transpose()?,
        auth: registration.auth.as_str().into(),
    })
}

/// The secret at `source`, without the newline that editors leave behind it.
fn secret(profile: &Profile, source: &KeySource) -> anyhow::Result<Zeroizing<String>> {
    let reference = super::key::reference(profile, source)?;
    let secret = reference.secret().with_context(|| format!("reading {reference}")).kind(Kind::Input)?;
    Ok(Zeroizing::new(secret.trim_end().to_string()))
}
