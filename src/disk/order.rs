//! What an installer is told to do: which image, onto which disk, and what then. JSON in its kernel image, under the same
//! signature as the kernel; and the rule by which a disk is chosen among those that are there.

use crate::model::{Bytes, Digest, Guid};
use serde::{Deserialize, Serialize};

/// Where the order lies in the installer's initrd, without the leading slash.
pub const ORDER: &str = "usr/lib/forge/install.json";
/// The most bytes of an order.
pub const MAX_ORDER: u64 = 64 << 10;
/// The argument of the kernel's command line that names the image's digest. Nothing reads it at boot, for the order says
/// the same under the same signature: it is for whoever has the kernel image in hand.
pub const IMAGE_ARGUMENT: &str = "forge.install";
/// The argument that says where the image is fetched from, where nothing that is signed does.
pub const SOURCE_ARGUMENT: &str = "forge.source";
/// The image's name beside the folder of a network boot.
pub const IMAGE_FILE: &str = "disk.raw.zst";

/// An installer's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Order {
    /// `NAME VERSION`, for the screen.
    pub title: String,
    /// The installed disk's UUID, by which an installation is known again.
    pub disk: GuidText,
    /// Digest of the compressed image: the one that the release's sums have.
    pub image: Digest,
    /// Its length.
    pub size: Bytes,
    /// Length of the disk that it holds.
    pub length: Bytes,
    /// Which disk.
    pub rule: DiskRule,
    /// Whether a disk that holds something else is written over.
    pub overwrite: bool,
    /// What comes afterwards.
    pub after: After,
    /// Where the image is fetched from, for a network boot; else the server that it was booted from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A UUID as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuidText(pub Guid);

impl Serialize for GuidText {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for GuidText {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<GuidText, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(GuidText).map_err(|_| serde::de::Error::custom("no UUID"))
    }
}

/// What an installer does when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// Turns the box off: somebody takes the medium out.
    Poweroff,
    /// Starts what was installed.
    Reboot,
}

/// Which disk an installer takes: the only one that everything said here is true of. With nothing said it is the only
/// disk that is built in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DiskRule {
    /// Its serial number.
    pub serial: Option<String>,
    /// One of its names: `/dev/disk/by-path/…`, or the kernel's.
    pub path: Option<String>,
    /// What its model's name contains.
    pub model: Option<String>,
    /// The least size.
    pub min_size: Option<Bytes>,
    /// The most.
    pub max_size: Option<Bytes>,
}

/// A disk as a rule sees it. What a disk says of itself is anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The kernel's name: `nvme0n1`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Whether it comes out of the box: on USB, or said by the disk.
    pub removable: bool,
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// Its names below /dev.
    pub paths: Vec<String>,
}

impl DiskRule {
    /// Whether it is told apart by more than its size: such a disk may be one that comes out.
    fn names(&self) -> bool {
        self.serial.is_some() || self.path.is_some() || self.model.is_some()
    }

    /// Whether everything that is said is true of `disk`.
    pub fn fits(&self, disk: &Candidate) -> bool {
        let is = |said: &Option<String>, has: &str| said.as_deref().is_none_or(|said| said == has);
        is(&self.serial, disk.serial.trim())
            && self.path.as_ref().is_none_or(|path| disk.paths.contains(path))
            && self.model.as_ref().is_none_or(|model| disk.model.contains(model.as_str()))
            && self.min_size.is_none_or(|least| disk.size >= least.0)
            && self.max_size.is_none_or(|most| disk.size <= most.0)
            && (self.names() || !disk.removable)
    }

    /// The one disk that fits.
    ///
    /// # Errors
    /// [`NoChoice`]: there is none, or there are several. Never the first of two.
    pub fn choose<'a>(&self, disks: &'a [Candidate]) -> Result<&'a Candidate, NoChoice> {
        let fitting: Vec<&Candidate> = disks.iter().filter(|disk| self.fits(disk)).collect();
        match fitting[..] {
            [one] => Ok(one),
            [] => Err(NoChoice::None),
            _ => Err(NoChoice::Several(fitting.iter().map(|disk| disk.name.clone()).collect())),
        }
    }
}

/// Why no disk is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoChoice {
    /// None fits.
    #[error("no disk fits")]
    None,
    /// Several do.
    #[error("{} fit", .0.join(", "))]
    Several(Vec<String>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, size: u64) -> Candidate {
        Candidate {
            name: name.into(),
            size: size << 30,
            serial: format!("S-{name}"),
            model: format!("Maker {name} PRO"),
            paths: vec![format!("/dev/{name}"), format!("/dev/disk/by-path/{name}")],
            removable: false,
        }
    }

    #[test]
    fn without_a_rule_it_is_the_only_disk_that_is_built_in() {
        let stick = Candidate { removable: true, ..disk("sda", 16) };
        let one = [stick.clone(), disk("sdb", 64)];
        assert_eq!(DiskRule::default().choose(&one).unwrap().name, "sdb");
        assert_eq!(DiskRule::default().choose(&[stick]), Err(NoChoice::None));
        let two = [disk("sda", 64), disk("sdb", 64)];
        assert_eq!(
            DiskRule::default().choose(&two),
            Err(NoChoice::Several(vec!["sda".into(), "sdb".into()]))
        );
    }

    #[test]
    fn every_word_of_a_rule_has_to_be_true() {
        let disks = [disk("sda", 64), disk("sdb", 64), Candidate { removable: true, ..disk("sdc", 512) }];
        let rule = |edit: &dyn Fn(&mut DiskRule)| {
            let mut rule = DiskRule::default();
            edit(&mut rule);
            rule.choose(&disks).map(|d| d.name.clone())
        };
        assert_eq!(rule(&|r| r.serial = Some("S-sdb".into())), Ok("sdb".into()));
        assert_eq!(rule(&|r| r.path = Some("/dev/disk/by-path/sda".into())), Ok("sda".into()));
        assert_eq!(rule(&|r| r.model = Some("sdc".into())), Ok("sdc".into()), "named, so it may come out");
        assert_eq!(rule(&|r| r.min_size = Some(Bytes(100 << 30))), Err(NoChoice::None));
        assert_eq!(
            rule(&|r| {
                r.model = Some("PRO".into());
                r.max_size = Some(Bytes(64 << 30));
            }),
            Err(NoChoice::Several(vec!["sda".into(), "sdb".into()]))
        );
        let contradiction = |r: &mut DiskRule| {
            r.serial = Some("S-sda".into());
            r.path = Some("/dev/sdb".into());
        };
        assert_eq!(rule(&contradiction), Err(NoChoice::None));
    }
}
