//! The memory of the machine: a file that QEMU has mapped, and the plugin as well.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use kvmmu_steps::event::{Arch, Frame};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::tables::ENTRIES;

/// It.
#[derive(Debug)]
pub(crate) struct Ram {
    region: MmapRegion,
    /// The physical address of its first byte.
    base: u64,
}

impl Ram {
    /// Maps the file. On a PC memory begins at 0 (with less than 2 GiB all of it is there), on the
    /// board `virt` at 1 GiB.
    pub(crate) fn map(path: &Path, arch: Arch) -> Result<Ram, String> {
        let fail = |error: String| format!("{}: {error}", path.display());
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(|error| fail(error.to_string()))?;
        let size = file.metadata().map_err(|error| fail(error.to_string()))?.len() as usize;
        let region = MmapRegion::from_file(FileOffset::new(file, 0), size);
        let base = match arch {
            Arch::Arm64 => 0x4000_0000,
            Arch::X86 => 0,
        };
        Ok(Ram { region: region.map_err(|error| fail(error.to_string()))?, base })
    }

    /// A word as it is now; `None`: no memory is there.
    pub(crate) fn load(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.base)? & !7).ok()?;
        let word = self.region.get_atomic_ref::<AtomicU64>(offset).ok()?;
        // ORDERING: relaxed: the store that is looked at was made by this thread.
        Some(word.load(Relaxed))
    }

    /// Writes a byte of code. What was translated of it before is executed on, until all is
    /// translated again.
    pub(crate) fn write(&self, address: u64, byte: u8) -> Option<()> {
        let offset = usize::try_from(address.checked_sub(self.base)?).ok()?;
        // ORDERING: relaxed: no CPU executes this code while another one is in a callback.
        self.region.get_atomic_ref::<AtomicU8>(offset).ok()?.store(byte, Relaxed);
        Some(())
    }

    /// The words of a page.
    pub(crate) fn page(&self, page: Frame) -> Option<Box<[u64; ENTRIES]>> {
        let mut words = Box::new([0; ENTRIES]);
        self.each(page, |index, word| words[index] = word)?;
        Some(words)
    }

    /// Each word of a page.
    pub(crate) fn each(&self, page: Frame, mut see: impl FnMut(usize, u64)) -> Option<()> {
        let offset = usize::try_from(page.address().checked_sub(self.base)?).ok()?;
        let slice = self.region.get_slice(offset, ENTRIES * 8).ok()?;
        for index in 0..ENTRIES {
            let word = slice.get_atomic_ref::<AtomicU64>(8 * index).ok()?;
            // ORDERING: relaxed: as above.
            see(index, word.load(Relaxed));
        }
        Some(())
    }
}
