//! Workloads against the machine that they must fit: what is known to ask for more is refused, with the numbers.
//!
//! Memory and processors are what containers request, or are limited to where they request nothing, for every replica; a
//! virtual machine takes all that it is given. The disk holds two slots of everything that is carried.

use super::compose::PlanError;
use super::packages::{OS_SET, container_set};
use crate::disk::{ENROLL_SIZE, ESP_LEAST};
use crate::layer::workload::manifest::yaml::Place;
use crate::layer::workload::{Workload, manifest::Object};
use crate::lock::Lock;
use crate::model::{Arch, Bytes, Digest};
use crate::profile::{ArchProfile, Origin};
use serde::Serialize;
use std::collections::BTreeMap;

/// One asker: where it stands, what it is called, and what it asks for.
struct Ask {
    at: String,
    what: String,
    amount: u64,
}

/// Holds requests against `[hardware]`.
///
/// # Errors
/// [`PlanError::Unfit`], at the largest asker.
pub fn check(wanted: &ArchProfile, workloads: &[Workload]) -> Result<(), PlanError> {
    let hardware = &wanted.hardware;
    if let Some(has) = hardware.memory {
        let guests = wanted.workload.iter().filter_map(|w| Some((w.name.as_str(), w.vm.as_ref()?.memory)));
        let guests = guests.map(|(name, memory)| Ask {
            at: "[[workload]]".into(),
            what: format!("virtual machine `{name}`"),
            amount: memory.0,
        });
        let asks: Vec<Ask> = requests(workloads, |r| r.memory).chain(guests).collect();
        within("memory", asks, has.0, &|n| Bytes(n).to_string())?;
    }
    if let Some(has) = hardware.cpus {
        let asks = requests(workloads, |r| r.cpu).collect();
        let shown = |n: u64| format!("{}.{:03}", n / 1000, n % 1000);
        within("cpus", asks, u64::from(has.get()) * 1000, &shown)?;
    }
    Ok(())
}

type Amount = fn(&crate::layer::workload::manifest::Requests) -> u64;

fn requests(workloads: &[Workload], amount: Amount) -> impl Iterator<Item = Ask> {
    workloads.iter().flat_map(|w| &w.manifests).flat_map(move |(manifest, _)| {
        manifest.pods().map(move |(object, pod)| {
            let of = |c: &&crate::layer::workload::manifest::Container| amount(&c.requests);
            let together: u64 = pod.containers.iter().filter(|c| !c.is_init).map(|c| of(&c)).sum();
            let first = pod.containers.iter().filter(|c| c.is_init).map(|c| of(&c)).max().unwrap_or(0);
            let largest = pod.containers.iter().max_by_key(of);
            let Place { line, .. } = largest.map_or(object.place, |c| c.requests.place);
            Ask {
                at: format!("{}:{line}", manifest.file),
                what: format!("{} `{}`", object.kind, object.name),
                amount: together.max(first).saturating_mul(replicas(object)),
            }
        })
    })
}

fn replicas(object: &Object) -> u64 {
    object.replicas.map_or(1, |(count, _)| count)
}

fn within(key: &str, asks: Vec<Ask>, has: u64, shown: &dyn Fn(u64) -> String) -> Result<(), PlanError> {
    let all = asks.iter().fold(0_u64, |sum, ask| sum.saturating_add(ask.amount));
    if all <= has {
        return Ok(());
    }
    let mut asks = asks;
    asks.sort_by_key(|ask| std::cmp::Reverse(ask.amount));
    let line = |ask: &Ask| format!("{}: {} asks for {}", ask.at, ask.what, shown(ask.amount));
    let largest: Vec<String> = asks.iter().take(3).map(line).collect();
    Err(PlanError::Unfit(format!(
        "{} (workloads ask for {} in all, `hardware.{key}` is {})",
        largest.join("\n"),
        shown(all),
        shown(has)
    )))
}

/// How long a disk's partitions are at least, as far as the lock tells: packages, images and releases as they are fetched,
/// which the disk holds unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Partitions {
    /// The ESP, there once.
    pub esp: Bytes,
    /// The root of each slot.
    pub root: Bytes,
    /// The payload of each slot.
    pub payload: Bytes,
    /// Where the bundle lies, there once.
    pub enroll: Bytes,
}

impl Partitions {
    /// Both slots, and what is there once; without the state, which takes the rest of the disk.
    pub fn whole(&self) -> Bytes {
        let slot = self.root.0.saturating_add(self.payload.0);
        Bytes(slot.saturating_mul(2).saturating_add(self.esp.0).saturating_add(self.enroll.0))
    }
}

/// What is carried, by its digest: how much, and what it is called. The flag says whether it is the payload's.
type Carried = BTreeMap<Digest, (u64, String, bool)>;

/// The partitions of a disk.
pub fn partitions(wanted: &ArchProfile, lock: &Lock, arch: Arch) -> Partitions {
    measured(&carried(wanted, lock, arch))
}

fn measured(carried: &Carried) -> Partitions {
    let sum =
        |payload| Bytes(carried.values().filter(|(.., of)| *of == payload).map(|(size, ..)| size).sum());
    Partitions { esp: Bytes(ESP_LEAST), root: sum(false), payload: sum(true), enroll: Bytes(ENROLL_SIZE) }
}

fn carried(wanted: &ArchProfile, lock: &Lock, arch: Arch) -> Carried {
    let mut carried = Carried::new();
    let mut add =
        |digest, size, what: &str, payload| drop(carried.insert(digest, (size, what.to_string(), payload)));
    let containers = wanted.container.iter().map(|c| (container_set(c.name.as_str()), true));
    for (set, payload) in std::iter::once((OS_SET.to_string(), false)).chain(containers) {
        lock.packages_of(&set, arch)
            .for_each(|p| add(p.digest, p.size.0, &format!("packages of {set}"), payload));
    }
    for image in lock.images.iter().filter(|i| i.arch == arch) {
        image.layers.iter().for_each(|l| add(l.digest, l.size, &format!("image {}", image.reference), true));
    }
    for file in lock.releases.iter().filter(|f| f.arch == arch) {
        add(file.digest, file.size.0, &file.to_string(), true);
    }
    let models = wanted.workload.iter().filter_map(|w| w.model.as_ref()).map(|m| &m.source);
    let disks = wanted.workload.iter().filter_map(|w| w.vm.as_ref()).map(|vm| &vm.disk);
    let kernel = [(&wanted.kernel, false)];
    let data = models.chain(disks).map(|origin| (origin, true));
    for (origin, payload) in data.chain(kernel) {
        let source = origin.to_string();
        let remote = lock.remote(&source).into_iter().flat_map(|r| &r.files);
        remote.for_each(|f| add(f.digest, f.size.0, &source, payload));
        if let Origin::File(path) = origin {
            let below =
                |f: &&crate::lock::LockedFile| f.path == *path || f.path.starts_with(&format!("{path}/"));
            lock.files.iter().filter(below).for_each(|f| add(f.digest, f.size.0, &source, payload));
        }
    }
    carried
}

/// Holds [`partitions`] against `hardware.disk`. File systems and the state come on top, so that what is refused here
/// cannot fit.
///
/// # Errors
/// [`PlanError::Unfit`], naming the largest things.
pub fn disk(wanted: &ArchProfile, lock: &Lock, arch: Arch) -> Result<(), PlanError> {
    let Some(has) = wanted.hardware.disk else { return Ok(()) };
    let carried = carried(wanted, lock, arch);
    let least = measured(&carried);
    if least.whole() <= has {
        return Ok(());
    }
    let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
    carried.into_values().for_each(|(size, what, _)| *by_name.entry(what).or_default() += size);
    let mut by_size: Vec<_> = by_name.into_iter().collect();
    by_size.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let line = |(what, size): &(String, u64)| format!("{what}: {}", Bytes(*size));
    let largest: Vec<String> = by_size.iter().take(3).map(line).collect();
    let Partitions { esp, root, payload, enroll } = least;
    Err(PlanError::Unfit(format!(
        "{}\nfor {arch}, {esp} for booting, twice {root} for the system and {payload} for workloads, and {enroll} for the \
         bundle do not fit `hardware.disk` = {has}",
        largest.join("\n"),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::workload::manifest;
    use crate::lock::SCHEMA;
    use crate::model::Epoch;
    use crate::profile::{self, Profile};
    use crate::source::remote::{PinnedPart, PinnedRemote};
    use crate::tree::Content;

    fn profile(hardware: &str) -> Profile {
        let text = format!(
            "schema = 1\nsite.name = \"a\"\nos.base = \"debian:trixie\"\nkubernetes.distribution = \"podman\"\n\
             [hardware]\n{hardware}\n[[workload]]\nname = \"shelf\"\n\
             model = {{ source = \"https://models.example/shelf.onnx\", mount = \"/var/lib/models/shelf\" }}\n"
        );
        profile::parse(&text).unwrap_or_else(|report| panic!("{report}"))
    }

    fn workload() -> Workload {
        let text = "kind: Deployment\nmetadata: {name: till}\nspec:\n  replicas: 3\n  template:\n    spec:\n      \
                    initContainers: [{name: i, image: i:1, resources: {requests: {memory: 900Mi}}}]\n      containers:\n      \
                    - {name: a, image: a:1, resources: {requests: {memory: 512Mi, cpu: 500m}}}\n      \
                    - {name: b, image: b:1, resources: {limits: {memory: 256Mi}}}\n";
        let parsed = manifest::parse("till.yaml", text.as_bytes()).unwrap();
        Workload { name: "till".into(), required: false, manifests: vec![(parsed, Content::from(vec![]))] }
    }

    fn told(hardware: &str) -> Option<String> {
        let profile = profile(hardware);
        check(&profile.arch[&Arch::Amd64], &[workload()]).err().map(|e| e.to_string())
    }

    #[test]
    fn requests_of_every_replica_are_held_against_the_machine() {
        // Init containers end before the others start: 900 MiB are more than 512 and 256 together.
        assert_eq!(told("memory = \"2700MiB\"\ncpus = 2"), None);
        let fault = told("memory = \"2699MiB\"").unwrap();
        assert!(fault.starts_with("till.yaml:7: Deployment `till` asks for 2.64 GiB"), "{fault}");
        let fault = told("cpus = 1").unwrap();
        assert!(fault.contains("asks for 1.500") && fault.contains("`hardware.cpus` is 1.000"), "{fault}");
    }

    #[test]
    fn two_slots_of_what_is_carried_must_fit_the_disk() {
        let part = PinnedPart {
            path: "shelf.onnx".into(),
            media_type: String::new(),
            unpack: false,
            size: Bytes(5 << 30),
            digest: Digest::of("shelf"),
        };
        let source = "https://models.example/shelf.onnx".to_string();
        let lock = Lock {
            schema: SCHEMA,
            epoch: Epoch(0),
            archives: vec![],
            sets: vec![],
            packages: vec![],
            images: vec![],
            releases: vec![],
            remotes: vec![PinnedRemote { source, files: vec![part] }],
            charts: vec![],
            files: vec![],
        };
        let fits = |disk: &str| disk_of(&profile(&format!("disk = \"{disk}\"")), &lock);
        assert_eq!(fits("11GiB"), None);
        let fault = fits("10GiB").unwrap();
        for words in ["https://models.example/shelf.onnx: 5.00 GiB", "256 MiB for booting", "10.0 GiB"] {
            assert!(fault.contains(words), "{words}: {fault}");
        }
    }

    fn disk_of(profile: &Profile, lock: &Lock) -> Option<String> {
        disk(&profile.arch[&Arch::Amd64], lock, Arch::Amd64).err().map(|e| e.to_string())
    }
}
