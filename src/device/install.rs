//! A grant's files: sealed → rendered beside → in their places, in an order that is right at every instant.
//!
//! The node's password comes first, keys before their certificates, configuration last: what reads a file finds what the
//! file names. Each is put in place whole; the link `applied` is set in one step when all are, and units wait for it.

use crate::device::artefact::{self, COMPLETE, Complete, StagedFile};
use crate::device::effects::Effects;
use crate::device::pause::Pause;
use crate::device::store::Store;
use crate::enroll::MAX_BODY;
use crate::enroll::code::Code;
use crate::enroll::csr::CertificateKey;
use crate::enroll::grant::{File, Grant, Item, Material, is_grantable};
use crate::model::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// More files than any grant has.
const MAX_FILES: usize = 1024;

/// When a file is put in place: lower is earlier.
fn turn(path: &str) -> u8 {
    let name = path.rsplit('/').next().unwrap_or_default();
    let ends = |suffixes: &[&str]| suffixes.iter().any(|s| name.ends_with(s));
    if path.starts_with("/etc/rancher/node/") {
        0
    } else if ends(&[".key", "-key.pem"]) {
        1
    } else if ends(&[".crt", ".pem", ".cert", ".cer"]) {
        2
    } else if name.starts_with("config.")
        || path.contains("/config.yaml.d/")
        || path.starts_with("/etc/kubeedge/config/")
    {
        4
    } else {
        3
    }
}

/// What cannot be applied.
fn unusable(why: impl Into<String>) -> Pause {
    Pause::refused(Code::GrantUnusable, why)
}

/// A file and its content.
type Rendered = (StagedFile, Zeroizing<Vec<u8>>);

/// A file as its item has it: path, permission bits, content.
type Granted<'a> = (&'a str, u32, Zeroizing<Vec<u8>>);

/// What one item puts in place.
fn contents<'a>(item: &'a Item, own: Option<&CertificateKey>) -> Result<Vec<Granted<'a>>, Pause> {
    match item {
        Item::Files { files } => {
            let decoded = |file: &'a File| {
                let content = STANDARD.decode(file.content.as_bytes()).map(Zeroizing::new);
                let content = content.map_err(|_| unusable(format!("{} is not base64", file.path)))?;
                Ok((&*file.path, file.mode, content))
            };
            files.iter().map(decoded).collect()
        }
        Item::OwnKey { path, spki_sha256, .. } => {
            let key = own.filter(|key| key.spki_sha256() == *spki_sha256);
            let key =
                key.ok_or_else(|| unusable(format!("{path} is for a key that this box does not have")))?;
            Ok(vec![(path, 0o600, Zeroizing::new(key.to_pem().as_bytes().to_vec()))])
        }
    }
}

/// The files of `material`, checked, in their order.
fn files(material: &Material, own: Option<&CertificateKey>) -> Result<Vec<Rendered>, Pause> {
    let mut files: Vec<Rendered> = vec![];
    let mut seen = BTreeSet::new();
    for item in &material.items {
        for (path, mode, content) in contents(item, own)? {
            if !is_grantable(path) || path.len() > 512 || path.chars().any(char::is_control) {
                return Err(unusable(format!("no grant may write {path}")));
            }
            if mode & !0o777 != 0 {
                return Err(unusable(format!("{path} has the mode {mode:o}")));
            }
            if !seen.insert(path.to_string()) {
                return Err(unusable(format!("{path} is granted twice")));
            }
            let (path, sha256) = (path.to_string(), Digest::of(&*content));
            files.push((StagedFile { name: String::new(), path, mode, sha256 }, content));
        }
    }
    if files.len() > MAX_FILES {
        return Err(unusable(format!("{} files", files.len())));
    }
    files.sort_by(|(a, _), (b, _)| (turn(&a.path), &a.path).cmp(&(turn(&b.path), &b.path)));
    for (n, (file, _)) in files.iter_mut().enumerate() {
        file.name = format!("{n:04}");
    }
    Ok(files)
}

/// Renders `material` into the stage of its grant; whole when this returns, and no stage before.
///
/// # Errors
/// [`Code::GrantUnusable`] for what this image does not do.
pub fn stage(
    io: &mut impl Effects,
    store: &mut Store,
    grant: &Grant,
    sha256: Digest,
    material: &Material,
    own: Option<&CertificateKey>,
) -> Result<(), Pause> {
    let files = files(material, own)?;
    let renewals = material.items.iter().filter_map(|item| match item {
        Item::OwnKey { renew_after, .. } => Some(*renew_after),
        Item::Files { .. } => None,
    });
    let renew_after = renewals.min();
    let dir = artefact::stage(grant.generation);
    // What a cut left of an earlier try.
    if !io.list(&dir)?.is_empty() {
        store.delete_dir(io, &dir)?;
    }
    for (file, content) in &files {
        store.replace(io, &dir.join(&file.name), content, 0o600)?;
    }
    let complete = Complete {
        grant_id: grant.grant_id.clone(),
        grant_sha256: Some(sha256),
        node: grant.node_name.clone(),
        files: files.into_iter().map(|(file, _)| file).collect(),
        renew_after,
    };
    store.put_json(io, &dir.join(COMPLETE), &complete)?;
    Ok(())
}

/// The list of a stage, when it is whole.
pub fn complete(
    io: &mut impl Effects,
    store: &mut Store,
    generation: u64,
) -> Result<Option<Complete>, Pause> {
    Ok(store.get_json(io, &artefact::stage(generation).join(COMPLETE))?)
}

/// Puts the files of a stage in their places, where they are not. `false` when the stage turns out not to be whole.
pub fn install(io: &mut impl Effects, store: &mut Store, generation: u64) -> Result<bool, Pause> {
    let Some(complete) = complete(io, store, generation)? else { return Ok(false) };
    for file in &complete.files {
        if !is_grantable(&file.path) {
            return Err(unusable(format!("no grant may write {}", file.path)));
        }
        let staged = io.read(&artefact::stage(generation).join(&file.name), MAX_BODY)?;
        let Some(content) = staged.filter(|content| Digest::of(&**content) == file.sha256) else {
            return Ok(false);
        };
        let place = PathBuf::from(&file.path);
        // Larger than any granted file is another file.
        let there = io.read(&place, MAX_BODY).unwrap_or(None);
        if there.is_none_or(|there| *there != *content) {
            store.replace(io, &place, &content, file.mode)?;
        } else {
            // Perhaps written by a process that was killed before its fsync.
            io.sync_file(&place)?;
            io.sync_dir(place.parent().unwrap_or(&place))?;
        }
    }
    Ok(true)
}

/// Makes `generation` the one in place: its files are; those that only `before` had go.
pub fn switch(io: &mut impl Effects, store: &mut Store, generation: u64, before: u64) -> Result<(), Pause> {
    if before > 0 && before != generation {
        let kept: BTreeSet<String> = match complete(io, store, generation)? {
            Some(complete) => complete.files.into_iter().map(|f| f.path).collect(),
            None => return Ok(()),
        };
        if let Some(old) = complete(io, store, before)? {
            for file in old.files.iter().filter(|f| is_grantable(&f.path) && !kept.contains(&f.path)) {
                store.delete(io, Path::new(&file.path))?;
            }
        }
    }
    let target = Path::new("../stage").join(generation.to_string());
    store.point(io, Path::new(artefact::APPLIED), &target)?;
    Ok(())
}

/// Removes what a generation put in place.
pub fn take_back(io: &mut impl Effects, store: &mut Store, generation: u64) -> Result<(), Pause> {
    let Some(complete) = complete(io, store, generation)? else { return Ok(()) };
    for file in complete.files.iter().filter(|f| is_grantable(&f.path)) {
        store.delete(io, Path::new(&file.path))?;
    }
    Ok(())
}

/// Removes grants, stages and acknowledgements below `generation`.
pub fn prune(io: &mut impl Effects, store: &mut Store, generation: u64) -> Result<(), Pause> {
    for old in artefact::generations(io.list(Path::new(artefact::STAGES))?) {
        if old < generation {
            store.delete_dir(io, &artefact::stage(old))?;
        }
    }
    for old in artefact::generations(io.list(Path::new(artefact::GRANTS))?) {
        if old < generation {
            let file = artefact::grant(old);
            store.delete_dir(io, file.parent().unwrap_or(&file))?;
        }
    }
    for old in artefact::generations(io.list(Path::new(artefact::ACKED))?) {
        if old < generation {
            store.delete(io, &artefact::acked(old))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn material(files: &[(&str, u32)]) -> Material {
        let file = |(path, mode): &(&str, u32)| File {
            path: path.to_string(),
            mode: *mode,
            content: Zeroizing::new(STANDARD.encode("x")),
        };
        Material { items: vec![Item::Files { files: files.iter().map(file).collect() }] }
    }

    #[test]
    fn files_go_in_the_order_in_which_they_are_needed() {
        let order = [
            "/etc/rancher/node/password",
            "/etc/kubeedge/certs/server.key",
            "/etc/kubeedge/ca/ca.crt",
            "/etc/kubeedge/certs/server.crt",
            "/etc/rancher/k3s/registries.yaml",
            "/etc/kubeedge/config/50-forge.json",
            "/etc/rancher/k3s/config.yaml.d/50-forge.yaml",
        ];
        let mut turned: Vec<_> = order.iter().map(|p| (*p, 0o600)).collect();
        turned.reverse();
        let sorted = files(&material(&turned), None).unwrap();
        assert_eq!(sorted.iter().map(|(f, _)| &*f.path).collect::<Vec<_>>(), order);
    }

    #[test]
    fn what_a_grant_may_not_do_is_not_done() {
        for bad in [
            &[("/usr/bin/forge-device", 0o755)][..],
            &[("/etc/forge/../shadow", 0o600)],
            &[("/etc/forge/x", 0o4755)],
            &[("/etc/forge/x", 0o600), ("/etc/forge/x", 0o644)],
            &[("/etc/forge/x\ny", 0o600)],
        ] {
            assert_eq!(files(&material(bad), None).unwrap_err().code, Some(Code::GrantUnusable), "{bad:?}");
        }
    }

    #[test]
    fn the_own_key_goes_where_its_certificate_is_and_no_other_does() {
        let (own, other) = (CertificateKey::generate().unwrap(), CertificateKey::generate().unwrap());
        let granted = |path: &str, key: &CertificateKey| Material {
            items: vec![Item::OwnKey {
                r#use: "edgecore".into(),
                path: path.into(),
                spki_sha256: key.spki_sha256(),
                renew_after: crate::model::Epoch(0),
            }],
        };
        let place = "/etc/kubeedge/certs/server.key";
        let rendered = files(&granted(place, &own), Some(&own)).unwrap();
        assert_eq!((rendered[0].0.path.as_str(), rendered[0].0.mode), (place, 0o600));
        assert_eq!(*rendered[0].1, own.to_pem().as_bytes());
        for refused in [
            files(&granted(place, &other), Some(&own)),
            files(&granted(place, &own), None),
            files(&granted("/etc/shadow", &own), Some(&own)),
        ] {
            assert_eq!(refused.unwrap_err().code, Some(Code::GrantUnusable));
        }
    }
}
