//! Which thread groups are agents': their tags, and the bits that make the kernel side look.
//!
//! In: what adoption found. Out: tags. The kernel side writes both as well; the order here keeps a
//! process that both write at once from ever being nobody's.

use std::sync::atomic::Ordering::SeqCst;

use agent_enforcer_common::process::ProcessTag;
use aya::maps::{HashMap, MapData, MapError};

use super::{mapped::MappedArray, maps::removed};

/// See the module's header.
#[derive(Debug)]
pub struct Processes {
    tags: HashMap<MapData, u32, ProcessTag>,
    marks: MappedArray,
}

impl Processes {
    /// Of the two maps.
    pub const fn new(tags: HashMap<MapData, u32, ProcessTag>, marks: MappedArray) -> Self {
        Self { tags, marks }
    }

    /// The tag of a thread group.
    pub fn get(&self, tgid: u32) -> Result<ProcessTag, MapError> {
        self.tags.get(&tgid, 0)
    }

    /// Every tag.
    pub fn iter(&self) -> impl Iterator<Item = Result<(u32, ProcessTag), MapError>> {
        self.tags.iter()
    }

    /// Tags a thread group. The tag first: a bit alone denies everything.
    pub fn insert(&mut self, tgid: u32, tag: ProcessTag) -> Result<(), MapError> {
        self.tags.insert(tgid, tag, 0)?;
        self.mark(tgid);
        Ok(())
    }

    /// Forgets a thread group; one without a tag is none. The bit first: where the kernel side tags
    /// the same number meanwhile, its bit stays.
    pub fn remove(&mut self, tgid: u32) -> Result<(), MapError> {
        self.unmark(tgid);
        removed(self.tags.remove(&tgid))
    }

    /// Makes the kernel side look at what a thread group does.
    pub fn mark(&self, tgid: u32) {
        if let Some(word) = self.marks.slot(tgid as usize / 64).and_then(<[_]>::first) {
            word.fetch_or(1 << (tgid % 64), SeqCst);
        }
    }

    /// Takes that back.
    pub fn unmark(&self, tgid: u32) {
        if let Some(word) = self.marks.slot(tgid as usize / 64).and_then(<[_]>::first) {
            word.fetch_and(!(1 << (tgid % 64)), SeqCst);
        }
    }
}
