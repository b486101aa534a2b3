//! Where things lie on a volume that forge writes: all of it follows from the size.

use super::{ENTRY, FAT16_CLUSTERS, FAT32_CLUSTERS, SECTOR};
use crate::model::{Epoch, Guid};

/// Drivers differ by a few in how they count, so no volume comes closer than this to a limit.
const MARGIN: u64 = 16;

/// The volume ID that goes with a partition: its first four bytes. FAT16 stores the ID once, and so it can be checked.
pub fn volume_id(partition: &Guid) -> u32 {
    let b = partition.as_bytes();
    u32::from_be_bytes([b[0], b[1], b[2], b[3]])
}

/// Where things lie on a volume of a given size: all of it follows from the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Whether it is FAT32.
    pub(super) wide: bool,
    /// Sectors of the volume.
    pub(super) sectors: u64,
    /// Sectors before the first FAT.
    pub(super) reserved: u64,
    /// Sectors of one FAT.
    pub(super) fat: u64,
    /// Entries of the root directory that lie outside the clusters: FAT16 only.
    pub(super) root_entries: u64,
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    /// Count of clusters.
    pub(super) clusters: u64,
}

impl Geometry {
    /// For a volume of `size` bytes, FAT32 (`wide`) or FAT16; `None` where none of that kind and size is valid.
    pub(super) fn new(size: u64, wide: bool) -> Option<Geometry> {
        let sectors = size / SECTOR;
        if !size.is_multiple_of(SECTOR) || sectors > u64::from(u32::MAX) {
            return None;
        }
        let (reserved, root_entries) = if wide { (32, 0) } else { (1, 512) };
        let root_sectors = root_entries * ENTRY as u64 / SECTOR;
        // The smallest clusters up to 4 KiB that are few enough, as mkfs.fat has it; larger ones waste in small files.
        [1u64, 2, 4, 8, 16, 32, 64].into_iter().find_map(|per_cluster| {
            let width = if wide { 4 } else { 2 };
            let data = sectors.checked_sub(reserved + root_sectors)?;
            // Each cluster takes its sectors and an entry in both FATs.
            let fat = ((data + 2 * per_cluster) * width).div_ceil(per_cluster * SECTOR + 2 * width);
            let clusters = data.checked_sub(2 * fat)? / per_cluster;
            let fits = if wide {
                let few = per_cluster >= 8 || clusters <= 8 * FAT32_CLUSTERS;
                (FAT32_CLUSTERS + MARGIN..0x0fff_fff0).contains(&clusters) && few
            } else {
                (FAT16_CLUSTERS + MARGIN..FAT32_CLUSTERS - MARGIN).contains(&clusters)
            };
            let cluster = per_cluster * SECTOR;
            fits.then_some(Geometry { wide, sectors, reserved, fat, root_entries, cluster, clusters })
        })
    }

    pub(super) fn fat_at(&self, copy: u64) -> u64 {
        (self.reserved + copy * self.fat) * SECTOR
    }

    pub(super) fn root_at(&self) -> u64 {
        self.fat_at(2)
    }

    pub(super) fn cluster_at(&self, cluster: u64) -> u64 {
        self.root_at() + self.root_entries * ENTRY as u64 + (cluster - 2) * self.cluster
    }

    /// What marks the last cluster of a chain.
    pub(super) fn end_of_chain(&self) -> u32 {
        if self.wide { 0x0fff_ffff } else { 0xffff }
    }
}

/// Date and time as directory entries have them: two seconds fine, 1980 to 2107, here in UTC.
pub(super) fn dos_time(epoch: Epoch) -> (u16, u16) {
    let low = 315_532_800; // 1980-01-01T00:00:00Z
    let high = 4_354_819_198; // 2107-12-31T23:59:58Z
    let seconds = epoch.0.clamp(low, high);
    let Ok(time) = jiff::Timestamp::from_second(seconds) else { return (1 << 5 | 1, 0) };
    let t = jiff::tz::Offset::UTC.to_datetime(time);
    let date = (t.year() - 1980) as u16 * 512 + t.month() as u16 * 32 + t.day() as u16;
    (date, t.hour() as u16 * 2048 + t.minute() as u16 * 32 + t.second() as u16 / 2)
}

/// The inverse of [`dos_time`]; `None` where the fields are no time.
pub(super) fn epoch_of(date: u16, time: u16) -> Option<Epoch> {
    let t = jiff::civil::DateTime::new(
        1980 + (date / 512) as i16,
        (date / 32 % 16) as i8,
        (date % 32) as i8,
        (time / 2048) as i8,
        (time / 32 % 64) as i8,
        (time % 32 * 2) as i8,
        0,
    );
    let time = jiff::tz::Offset::UTC.to_timestamp(t.ok()?).ok()?;
    Some(Epoch(time.as_second()))
}
