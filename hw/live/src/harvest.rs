//! Harvesting dirty pages into a copy, as live migration does it.
//!
//! The order is what all depends on: learn of the page and protect it again *first*, copy it
//! *then*. [`Broken`] has the two wrong orders; each must be seen to lose pages.

use kvmmu_qemu::Failure;

use crate::memory::{Memory, PAGE};
use crate::steps;
use crate::sys::Ring;
use crate::trace::{Marker, Phase};
use crate::vm::{DATA_SLOT, DirtyLog, Vm};

/// A wrong order: a negative control.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// Pages are copied before it is known which are dirty.
    CopyBeforeGet,
    /// Pages are copied, and protected again only then.
    ClearLate,
}

impl Broken {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Broken::CopyBeforeGet => "copy-before-get",
            Broken::ClearLate => "clear-late",
        }
    }

    /// True if `log` has this order: with [`DirtyLog::Get`] to learn and to protect are one call.
    pub fn applies_to(self, log: DirtyLog) -> bool {
        match self {
            Broken::CopyBeforeGet => log == DirtyLog::Get,
            Broken::ClearLate => log != DirtyLog::Get,
        }
    }
}

/// Pages that KVM_CLEAR_DIRTY_LOG gets at once: one word of the bitmap.
const CHUNK: usize = 64;

/// The copy, and how it came to be.
#[derive(Debug)]
pub struct Harvester<'v> {
    vm: &'v Vm,
    rings: Vec<Ring>,
    broken: Option<Broken>,
    marker: Marker,
    /// The destination: only harvested pages are ever copied into it.
    pub copy: Vec<u8>,
    /// What [`Broken::CopyBeforeGet`] copies from.
    early: Vec<u8>,
    /// Rounds so far.
    pub rounds: u64,
    /// Rounds that found dirty pages.
    pub rounds_dirty: u64,
    /// Pages copied.
    pub pages: u64,
}

impl<'v> Harvester<'v> {
    /// A harvester of the data pages of `vm`; `rings` are those of its vCPUs, if it has any.
    pub fn new(
        vm: &'v Vm,
        rings: Vec<Ring>,
        broken: Option<Broken>,
        marker: Marker,
    ) -> Harvester<'v> {
        let len = vm.data.pages() * PAGE;
        let early = if broken == Some(Broken::CopyBeforeGet) { vec![0; len] } else { Vec::new() };
        let (rounds, rounds_dirty, pages) = (0, 0, 0);
        let copy = vec![0; len];
        Harvester { vm, rings, broken, marker, copy, early, rounds, rounds_dirty, pages }
    }

    /// One round: afterwards the copy has every page as it was at some moment after it was last
    /// reported.
    ///
    /// # Errors
    ///
    /// Those of KVM.
    pub fn round(&mut self) -> Result<(), Failure> {
        if self.broken == Some(Broken::CopyBeforeGet) {
            self.vm.data.copy_all(&mut self.early);
        }
        let dirty = match self.vm.log {
            DirtyLog::Ring => self.collect(),
            _ => self.get()?,
        };
        let late = self.broken == Some(Broken::ClearLate);
        if !late {
            self.protect(&dirty)?;
        }
        let copied = self.copy(&dirty);
        if late {
            self.protect(&dirty)?;
        }
        self.pages += copied;
        self.rounds += 1;
        self.rounds_dirty += u64::from(copied > 0);
        Ok(())
    }

    /// Switches dirty logging off and on again; then every page counts as dirty.
    ///
    /// # Errors
    ///
    /// Those of KVM.
    pub fn restart_logging(&mut self) -> Result<(), Failure> {
        for on in [false, true] {
            let fields = [("slot", u64::from(DATA_SLOT)), ("log", u64::from(on))];
            self.marker.user("set-memslot-flags", Phase::Enter, &fields);
            self.vm.set_logging(on)?;
            self.marker.user("set-memslot-flags", Phase::Exit, &fields);
        }
        self.vm.data.copy_all(&mut self.copy);
        Ok(())
    }

    /// A bitmap of the dirty pages.
    fn get(&self) -> Result<Vec<u64>, Failure> {
        let slot = [("slot", u64::from(DATA_SLOT))];
        self.marker.user("get-dirty-log", Phase::Enter, &slot);
        let bits = self.vm.get_dirty_log()?;
        let dirty = bits.iter().map(|word| u64::from(word.count_ones())).sum();
        self.marker.user("get-dirty-log", Phase::Exit, &[slot[0], ("dirty", dirty)]);
        Ok(bits)
    }

    /// The same, from the rings.
    fn collect(&mut self) -> Vec<u64> {
        let pages = self.vm.data.pages();
        let mut bits = vec![0; pages.div_ceil(64)];
        let entries = self.rings.iter_mut().flat_map(|ring| std::iter::from_fn(|| ring.collect()));
        for (slot, page) in entries {
            if let (DATA_SLOT, Ok(page)) = (slot, usize::try_from(page)) {
                bits[page / 64] |= 1 << (page % 64);
            }
        }
        bits
    }

    /// Has KVM protect what is in `dirty`, where getting it did not.
    fn protect(&self, dirty: &[u64]) -> Result<(), Failure> {
        let any = dirty.iter().any(|word| *word != 0);
        let clear = |first: usize, bits: &[u64]| {
            let pages = u32::try_from(bits.len() * 64).map_err(|_| too_many())?;
            let fields = [
                ("slot", u64::from(DATA_SLOT)),
                ("first", first as u64),
                ("pages", u64::from(pages)),
            ];
            self.marker.user("clear-dirty-log", Phase::Enter, &fields);
            self.vm.clear_dirty_log((first as u64, pages), bits)?;
            self.marker.user("clear-dirty-log", Phase::Exit, &fields);
            Ok::<(), Failure>(())
        };
        match self.vm.log {
            DirtyLog::Get => Ok(()),
            DirtyLog::Ring => {
                self.marker.user("reset-dirty-rings", Phase::Enter, &[]);
                self.vm.reset_rings()?;
                self.marker.user("reset-dirty-rings", Phase::Exit, &[]);
                Ok(())
            }
            DirtyLog::Clear if any => clear(0, dirty),
            DirtyLog::Clear => Ok(()),
            DirtyLog::Chunks | DirtyLog::InitiallySet => {
                let mut chunks = dirty.iter().enumerate().filter(|(_, word)| **word != 0);
                chunks.try_for_each(|(i, word)| clear(i * CHUNK, std::slice::from_ref(word)))
            }
        }
    }

    /// Copies the dirty pages; returns how many.
    fn copy(&mut self, dirty: &[u64]) -> u64 {
        let mut copied = 0;
        steps::mark("copy", Phase::Enter, &[]);
        for page in set_bits(dirty) {
            let to = &mut self.copy[page * PAGE..][..PAGE];
            match self.early.get(page * PAGE..) {
                Some(early) if self.broken == Some(Broken::CopyBeforeGet) => {
                    to.copy_from_slice(&early[..PAGE]);
                }
                _ => self.vm.data.copy_page(page, to),
            }
            copied += 1;
        }
        steps::mark("copy", Phase::Exit, &[("pages", copied)]);
        copied
    }
}

/// The memory of the guest against the copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compared {
    /// Pages that the guest has written to.
    pub touched: u64,
    /// Pages that differ.
    pub lost: u64,
}

/// Compares, when every vCPU is out of KVM_RUN and the last round is done.
pub fn compare(source: &Memory, copy: &[u8]) -> Compared {
    let mut page = vec![0; PAGE];
    let mut compared = Compared { touched: 0, lost: 0 };
    for (i, copied) in copy.chunks_exact(PAGE).enumerate() {
        source.copy_page(i, &mut page);
        compared.touched += u64::from(page.iter().any(|byte| *byte != 0));
        compared.lost += u64::from(page != copied);
    }
    compared
}

/// The numbers of the bits that are set.
pub fn set_bits(words: &[u64]) -> impl Iterator<Item = usize> {
    words.iter().enumerate().flat_map(|(i, word)| {
        let mut rest = *word;
        std::iter::from_fn(move || {
            let bit = rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
            (bit < 64).then_some(i * 64 + bit as usize)
        })
    })
}

fn too_many() -> Failure {
    Failure::usage("the slot has too many pages for one KVM_CLEAR_DIRTY_LOG", "use --log chunks")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    #[test]
    fn bits_become_pages() {
        let words = [0b101, 0, 1 << 63];
        assert_eq!(set_bits(&words).collect::<Vec<_>>(), [0, 2, 191]);
    }

    #[test]
    fn one_different_byte_is_a_lost_page() {
        let memory = Memory::new(4, Backing::Shared).unwrap();
        memory.write(PAGE + 9, &[1]);
        memory.write(3 * PAGE, &[2]);
        let mut copy = vec![0; 4 * PAGE];
        memory.copy_all(&mut copy);
        assert_eq!(compare(&memory, &copy), Compared { touched: 2, lost: 0 });
        copy[PAGE + 9] = 0;
        assert_eq!(compare(&memory, &copy), Compared { touched: 2, lost: 1 });
    }
}
