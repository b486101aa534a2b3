//! Progress that the fleet hears of: a short queue on the disk, sent in batches. No event has a secret in it: they are
//! built of codes, names and reasons.
//!
//! Losing one is no harm, so nothing waits for a disk that refuses; telling one twice is none either, because the fleet
//! knows them by number.

use crate::device::artefact;
use crate::device::effects::Disk;
use crate::device::store::Store;
use crate::enroll::claim::{Event, MAX_EVENTS};
use crate::enroll::code::Code;
use crate::model::Epoch;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Events that are kept for a fleet that is not reached: weeks of a box that changes its trouble once an hour.
const MAX_KEPT: usize = 512;

/// Events that the fleet has not heard of, and the number of the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    next: u64,
    events: Vec<Event>,
}

impl Queue {
    /// What an earlier start left.
    ///
    /// # Errors
    /// What the disk says.
    pub fn load(store: &mut Store, disk: &mut impl Disk) -> io::Result<Queue> {
        Ok(store.get_json(disk, Path::new(artefact::EVENTS))?.unwrap_or_default())
    }

    /// Adds an event. Of the same kind and code twice in a row the first is enough: a link that flaps wears out no flash.
    pub fn add(
        &mut self,
        store: &mut Store,
        disk: &mut impl Disk,
        at: Epoch,
        kind: &str,
        code: Option<Code>,
        detail: &str,
    ) {
        if self.events.last().is_some_and(|last| last.kind == kind && last.code == code) {
            return;
        }
        let detail = detail.chars().take(200).collect();
        self.events.push(Event { seq: self.next, at, kind: kind.into(), code, detail });
        self.next += 1;
        if self.events.len() > MAX_KEPT {
            self.events.remove(0);
        }
        self.save(store, disk);
    }

    /// The oldest that have not been told, as many as one call brings.
    pub fn batch(&self) -> Vec<Event> {
        self.events.iter().take(MAX_EVENTS).cloned().collect()
    }

    /// The fleet has heard of all up to number `last`.
    pub fn told(&mut self, store: &mut Store, disk: &mut impl Disk, last: u64) {
        self.events.retain(|event| event.seq > last);
        self.save(store, disk);
    }

    fn save(&self, store: &mut Store, disk: &mut impl Disk) {
        // The device goes on without: what matters is written elsewhere, and says so when it fails.
        let _ = store.put_json(disk, Path::new(artefact::EVENTS), self);
    }
}
