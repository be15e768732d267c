//! Arrays that both sides write, mapped into the daemon.
//!
//! In: a map of type array that was made with `BPF_F_MMAPABLE` (5.5). Out: the words of its values,
//! each atomic. bpf(2) writes values whole, and what a program counts meanwhile would be lost.

use std::{
    io,
    mem::MaybeUninit,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aya::{
    Pod,
    maps::{Map, MapData, MapError},
};
use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

/// Why an array can't be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MappedError {
    /// Not an array.
    #[error("map `{name}` is no array; `agent-enforcer detach`, then start again")]
    NotAnArray {
        /// Its name.
        name: &'static str,
    },
    /// Values of another layout.
    #[error(
        "map `{name}` has values of {found} bytes, {needed} are needed; `agent-enforcer detach`, then start again"
    )]
    Layout {
        /// Its name.
        name: &'static str,
        /// Bytes of its values.
        found: u32,
        /// Bytes of the ABI's.
        needed: usize,
    },
    /// The kernel does not tell its size.
    #[error("map `{name}`: {source}; `agent-enforcer detach`, then start again")]
    Info {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        source: MapError,
    },
    /// The kernel does not map it.
    #[error("cannot map `{name}`: {source}; see the memory limit of the service (`LimitAS=`)")]
    Map {
        /// Its name.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The values of an array.
#[derive(Debug)]
pub struct MappedArray {
    words: NonNull<AtomicU64>,
    slots: usize,
    words_per_slot: usize,
}

// SAFETY: the memory is this value's own until it is dropped, and only used atomically.
unsafe impl Send for MappedArray {}
// SAFETY: as above.
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Maps an array of `T`. It stays mapped when the map is let go of.
    pub fn of<T>(name: &'static str, map: &Map) -> Result<Self, MappedError> {
        let Map::Array(map) = map else { return Err(MappedError::NotAnArray { name }) };
        let info = map.info().map_err(|source| MappedError::Info { name, source })?;
        let (found, needed) = (info.value_size(), size_of::<T>());
        if found as usize != needed {
            return Err(MappedError::Layout { name, found, needed });
        }
        Self::map(map, info.max_entries() as usize, words_of(needed))
            .map_err(|error| MappedError::Map { name, source: error.into() })
    }

    fn map(map: &MapData, slots: usize, words_per_slot: usize) -> Result<Self, Errno> {
        let bytes = bytes_of(slots, words_per_slot)?;
        // SAFETY: the kernel picks the place; the file is a map, which nobody can shorten.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.fd(),
                0,
            )
        }?;
        let words = NonNull::new(start.cast()).ok_or(Errno::FAULT)?;
        Ok(Self { words, slots, words_per_slot })
    }

    /// How many values there are.
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// The words of one value; `None` where there is no such slot.
    pub fn slot(&self, slot: usize) -> Option<&[AtomicU64]> {
        if slot >= self.slots {
            return None;
        }
        // SAFETY: within the mapping, which lives as long as the borrow; pages are zeroed and
        // aligned, and any bits are a word.
        Some(unsafe {
            let first = self.words.add(slot * self.words_per_slot);
            std::slice::from_raw_parts(first.as_ptr(), self.words_per_slot)
        })
    }

    /// A value, read word by word from the first on; `None` where there is no such slot.
    pub fn read<T: Pod>(&self, slot: usize) -> Option<T> {
        let words = self.slot(slot).filter(|words| size_of_val(*words) == size_of::<T>())?;
        let mut value = MaybeUninit::<T>::uninit();
        let mut to = value.as_mut_ptr().cast::<u64>();
        for word in words {
            // SAFETY: as many words as the value has; then any bits are a value (`Pod`).
            unsafe {
                to.write_unaligned(word.load(Relaxed));
                to = to.add(1);
            }
        }
        // SAFETY: every word of it was written.
        Some(unsafe { value.assume_init() })
    }

    /// Writes a value that nobody else writes, word by word; nothing where there is no such slot.
    pub fn write<T: Pod>(&self, slot: usize, value: &T) {
        let words = self.slot(slot).filter(|words| size_of_val(*words) == size_of::<T>());
        let mut from = std::ptr::from_ref(value).cast::<u64>();
        for word in words.unwrap_or_default() {
            // SAFETY: as many words as the value has, and `Pod` has no padding.
            unsafe {
                word.store(from.read_unaligned(), Relaxed);
                from = from.add(1);
            }
        }
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        let bytes = self.slots * self.words_per_slot * size_of::<u64>();
        // SAFETY: mapped with this length by whoever made this, and nobody borrows it any more.
        if let Err(error) = unsafe { munmap(self.words.as_ptr().cast(), bytes) } {
            tracing::warn!(%error, "an array stays mapped");
        }
    }
}

/// Words of one element: the kernel rounds its size up (kernel/bpf/arraymap.c `array_map_alloc`).
const fn words_of(bytes: usize) -> usize {
    bytes.div_ceil(size_of::<u64>())
}

fn bytes_of(slots: usize, words_per_slot: usize) -> Result<usize, Errno> {
    let words = slots.checked_mul(words_per_slot);
    words.and_then(|words| words.checked_mul(size_of::<u64>())).ok_or(Errno::OVERFLOW)
}

#[cfg(test)]
impl MappedArray {
    /// An array that no program knows.
    pub(crate) fn alone<T>(slots: usize) -> Self {
        let words_per_slot = words_of(size_of::<T>());
        let bytes = bytes_of(slots, words_per_slot).expect("fits");
        // SAFETY: the kernel picks the place.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let words = NonNull::new(start.expect("memory").cast()).expect("a place");
        Self { words, slots, words_per_slot }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_words_of_its_own_and_there_is_none_behind_the_last() {
        let array = MappedArray::alone::<[u8; 12]>(1000);
        for number in 0..1000 {
            let slot = array.slot(number).expect("a slot");
            assert_eq!(slot.len(), 2);
            slot[0].store(number as u64, Relaxed);
            slot[1].store(u64::MAX, Relaxed);
        }
        for number in 0..1000 {
            let first = array.slot(number).and_then(|slot| slot.first());
            assert_eq!(first.map(|word| word.load(Relaxed)), Some(number as u64));
        }
        assert!(array.slot(1000).is_none());
        assert_eq!(array.slots(), 1000);
    }

    #[test]
    fn value_is_read_as_it_was_written() {
        let array = MappedArray::alone::<[u64; 3]>(2);
        array.write(1, &[1_u64, 2, 3]);
        assert_eq!(array.read(1), Some([1_u64, 2, 3]));
        assert_eq!(array.read(0), Some([0_u64; 3]));
        array.write(2, &[9_u64; 3]);
        array.write(0, &9_u64);
        assert_eq!(array.read(0), Some([0_u64; 3]));
        assert_eq!(array.read::<[u64; 3]>(2), None);
        assert_eq!(array.read::<u64>(0), None);
    }
}
