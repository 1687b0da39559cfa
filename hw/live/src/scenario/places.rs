//! Where a scenario's frames are in guest memory.
//!
//! Mostly they are pages in a row. Where the scenario's host has huge pages, each four frames are
//! the first pages of 2 MiB, which the host maps by one entry: the model's huge pages have four
//! frames. What is behind those four nobody uses.

use kvmmu_model::Gfn;
use kvmmu_model::x86::mmu::paging::PT_ENTRIES;
use kvmmu_scenarios::scenario::Scenario;

/// Frames that a scenario can name.
pub(super) const FRAMES: usize = 8;
/// Pages of a huge page.
const HUGE: usize = 512;

/// The places of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Places {
    /// The host has huge pages.
    pub(super) huge: bool,
}

impl Places {
    /// Those of a scenario.
    pub(super) fn of(scenario: &Scenario) -> Places {
        Places { huge: !scenario.huge.is_empty() }
    }

    /// All pages of memory.
    pub(super) fn pages(self) -> usize {
        if self.huge { FRAMES / PT_ENTRIES * HUGE } else { FRAMES }
    }

    /// The page of a frame.
    pub(super) fn page(self, gfn: Gfn) -> usize {
        let frame = usize::try_from(gfn.0).unwrap_or(usize::MAX);
        match self.huge {
            true => (frame / PT_ENTRIES).saturating_mul(HUGE).saturating_add(frame % PT_ENTRIES),
            false => frame,
        }
    }

    /// The frame of a page. `None`: nobody uses it.
    pub(super) fn frame(self, page: usize) -> Option<Gfn> {
        let frame = match self.huge {
            true if page % HUGE >= PT_ENTRIES => return None,
            true => page / HUGE * PT_ENTRIES + page % HUGE,
            false => page,
        };
        Some(Gfn(frame as u64))
    }

    /// True if a slot of so many frames from this one on is whole huge pages, or need not be.
    pub(super) fn has_slot(self, base: Gfn, pages: u8) -> bool {
        let whole = |frames: u64| frames.is_multiple_of(PT_ENTRIES as u64);
        !self.huge || whole(base.0) && whole(pages.into())
    }

    /// So many frames, as pages of a slot.
    pub(super) fn slot(self, frames: u8) -> usize {
        match self.huge {
            true => usize::from(frames) / PT_ENTRIES * HUGE,
            false => frames.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_one_page_and_a_page_one_frame() {
        for places in [Places { huge: false }, Places { huge: true }] {
            let frames = (0..places.pages()).filter_map(|page| Some((places.frame(page)?, page)));
            let frames: Vec<(Gfn, usize)> = frames.collect();
            assert_eq!(frames.len(), FRAMES);
            assert!(frames.iter().all(|(frame, page)| places.page(*frame) == *page));
        }
        assert_eq!(Places { huge: true }.page(Gfn(5)), 513);
        assert!(!Places { huge: true }.has_slot(Gfn(0), 2));
    }
}
