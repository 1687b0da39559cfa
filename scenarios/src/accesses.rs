//! What hardware says of pages by A, and what the host has learned of it: the observer behind
//! `accessed`.

use kvmmu_model::Pfn;

use crate::host_mm::PFNS;
use crate::machine::{Cell, Machine};

/// Pages, a bit each.
type Pages = u8;

const _: () = assert!(PFNS <= Pages::BITS as usize);

/// The pages that are in use, as hardware and the host know it.
#[derive(Debug)]
pub(crate) struct PageAccesses<M: Machine>(Option<M::Cell<Seen>>);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Seen {
    /// Hardware has set A in an SPTE that maps the page, since the host learned last that the page
    /// was used.
    used: Pages,
    /// The page's own flag: KVM has told the host (`PageReferenced`).
    referenced: Pages,
}

impl<M: Machine> PageAccesses<M> {
    /// Nobody watches.
    pub(crate) fn unwatched() -> Self {
        PageAccesses(None)
    }

    pub(crate) fn watch(&mut self, m: &M) {
        self.0 = Some(m.cell(Seen::default()));
    }

    /// Hardware sets A of an SPTE that maps the page.
    pub(crate) fn used(&self, pfn: Pfn) {
        if let Some(seen) = &self.0 {
            seen.commute(|seen| seen.used |= 1 << pfn.0);
        }
    }

    /// `kvm_set_pfn_accessed`.
    pub(crate) fn referenced(&self, pfn: Pfn) {
        if let Some(seen) = &self.0 {
            seen.commute(|seen| seen.referenced |= 1 << pfn.0);
        }
    }

    /// The host has asked of a page (`page_referenced`), and `young` is the answer of the SPTEs.
    pub(crate) fn asked(&self, pfn: impl FnOnce() -> Option<Pfn>, young: bool) {
        let Some(seen) = &self.0 else { return };
        if let Some(pfn) = pfn() {
            seen.with(|seen| {
                if young || seen.referenced >> pfn.0 & 1 == 1 {
                    seen.used &= !(1 << pfn.0);
                    seen.referenced &= !(1 << pfn.0);
                }
            });
        }
    }

    /// The page is given to somebody else.
    pub(crate) fn allocated(&self, pfn: Pfn) {
        if let Some(seen) = &self.0 {
            seen.with(|seen| {
                seen.used &= !(1 << pfn.0);
                seen.referenced &= !(1 << pfn.0);
            });
        }
    }

    /// The pages that were used, of which the page itself says nothing.
    pub(crate) fn untold(&self) -> Pages {
        self.0.as_ref().map_or(0, |seen| {
            let seen = seen.get();
            seen.used & !seen.referenced
        })
    }
}
