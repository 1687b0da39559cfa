//! The rules of the protocol, each in a file of its own.

mod dirty;
mod flush;
mod harvest;
mod lock;
mod mark;
mod model;
mod orders;
mod retry;
mod step;
mod unmap;

use std::collections::BTreeMap;

use core::fmt;

use crate::event::Arch;
use crate::file::Header;
use crate::judge::{Now, TOLD, Violation};
use crate::kernel::Kernel;

pub use orders::Order;

/// A rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Every store is a step of the protocol.
    Step,
    /// A new leaf is one that a guest can use: accessed, readable.
    Leaf,
    /// What a store was done under.
    Lock,
    /// A store is what the model makes of the same old value.
    #[serde(rename = "as-the-model")]
    Model,
    /// Where a translation was taken away, TLBs are flushed before the lock is given back.
    FlushBeforeUnlock,
    /// Where a permission was taken away, TLBs are flushed before the operation is over.
    FlushBeforeReturn,
    /// A vCPU that was not in the guest then drops what its TLB has before it is.
    FlushBeforeEntry,
    /// The same, before a page of descriptors is used for something else.
    FlushBeforeReuse,
    /// A descriptor is broken, and TLBs are flushed, before another one is made.
    BreakBeforeMake,
    /// When an unmap is over, nothing of its range is mapped.
    UnmapComplete,
    /// A page that guests may write is in the dirty log before the lock is given back.
    DirtyBeforeUnlock,
    /// The same, where there is no lock: before the guest goes on.
    DirtyBeforeEntry,
    /// A mark reaches the dirty bitmap, or a ring.
    MarkStores,
    /// A fault tries again, if what it has looked up may have been invalidated.
    FaultRetries,
    /// A harvest takes write permission from each page that it takes out of the log.
    HarvestProtects,
    /// A harvest takes each page that was marked before it.
    HarvestTakesAll,
    /// A guest uses no translation that was taken away, once TLBs are flushed.
    NoStaleAccess,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 17] = [
        Rule::Step,
        Rule::Leaf,
        Rule::Lock,
        Rule::Model,
        Rule::FlushBeforeUnlock,
        Rule::FlushBeforeReturn,
        Rule::FlushBeforeEntry,
        Rule::FlushBeforeReuse,
        Rule::BreakBeforeMake,
        Rule::UnmapComplete,
        Rule::DirtyBeforeUnlock,
        Rule::DirtyBeforeEntry,
        Rule::MarkStores,
        Rule::FaultRetries,
        Rule::HarvestProtects,
        Rule::HarvestTakesAll,
        Rule::NoStaleAccess,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Step => "step",
            Rule::Leaf => "leaf",
            Rule::Lock => "lock",
            Rule::Model => "as-the-model",
            Rule::FlushBeforeUnlock => "flush-before-unlock",
            Rule::FlushBeforeReturn => "flush-before-return",
            Rule::FlushBeforeEntry => "flush-before-entry",
            Rule::FlushBeforeReuse => "flush-before-reuse",
            Rule::BreakBeforeMake => "break-before-make",
            Rule::UnmapComplete => "unmap-complete",
            Rule::DirtyBeforeUnlock => "dirty-before-unlock",
            Rule::DirtyBeforeEntry => "dirty-before-entry",
            Rule::MarkStores => "mark-stores",
            Rule::FaultRetries => "fault-retries",
            Rule::HarvestProtects => "harvest-protects",
            Rule::HarvestTakesAll => "harvest-takes-all",
            Rule::NoStaleAccess => "no-stale-access",
        }
    }

    /// What it says, in one sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Rule::Step => {
                "A store to a descriptor that translates is a step of the protocol: it gives or \
                 takes permissions, or it ends the translation."
            }
            Rule::Leaf => "A new leaf is readable and counts as accessed.",
            Rule::Lock => {
                "Descriptors that a CPU can reach are stored under mmu_lock, alone. Where only \
                 permissions are given back, arm64 6.1 may be a reader, and x86 needs no lock."
            }
            Rule::Model => {
                "A store is what the model's own step makes of the old value, with every guard."
            }
            Rule::FlushBeforeUnlock => {
                "Who takes a translation away has flushed the TLBs of all CPUs, and waited for \
                 that, before mmu_lock is given back."
            }
            Rule::FlushBeforeReturn => {
                "Who takes a permission away has flushed the TLBs of all CPUs, and waited for \
                 that, before the operation returns."
            }
            Rule::FlushBeforeEntry => {
                "A vCPU that was outside of the guest when something was taken away drops what \
                 its TLB has of it when it enters again."
            }
            Rule::FlushBeforeReuse => {
                "A page of descriptors that was taken out is given back only when no CPU can walk \
                 it any more: after the flush."
            }
            Rule::BreakBeforeMake => {
                "A descriptor that translates is made invalid, and TLBs are flushed, before it \
                 translates something else."
            }
            Rule::UnmapComplete => {
                "When an unmap is over, no descriptor of its range maps anything: the host takes \
                 the pages back."
            }
            Rule::DirtyBeforeUnlock => {
                "Who lets a guest write a page of a logged slot has marked it dirty before \
                 mmu_lock is given back: else a harvest may come in between and miss it."
            }
            Rule::DirtyBeforeEntry => {
                "Who lets a guest write a page of a logged slot without mmu_lock has marked it \
                 dirty before it enters the guest."
            }
            Rule::MarkStores => {
                "A page that is marked dirty has its bit in the dirty bitmap, or a place in a \
                 dirty ring, when the function that marks it returns."
            }
            Rule::FaultRetries => {
                "A fault maps what it has looked up only if no invalidation has begun or ended \
                 since it read their sequence."
            }
            Rule::HarvestProtects => {
                "A harvest takes write permission from each page that it takes out of the log: \
                 else the guest goes on writing unseen."
            }
            Rule::HarvestTakesAll => {
                "A harvest takes each page that was marked dirty before it had the lock."
            }
            Rule::NoStaleAccess => {
                "A guest's access goes through a descriptor that is there, or through one whose \
                 flush is still owed."
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What rules have found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    applied: BTreeMap<Rule, (u64, u64)>,
    violations: Vec<Violation>,
    orders: BTreeMap<Order, u64>,
}

impl Findings {
    /// A rule was applied, and holds.
    pub(crate) fn holds(&mut self, rule: Rule) {
        self.applied.entry(rule).or_default().0 += 1;
    }

    /// An order was seen.
    pub(crate) fn seen(&mut self, order: Order) {
        *self.orders.entry(order).or_default() += 1;
    }

    /// A rule was applied, and does not hold. `about` are the events that lead to this one.
    pub(crate) fn broken(
        &mut self,
        rule: Rule,
        about: &[u64],
        event: u64,
        (what, wanted): (String, String),
    ) {
        let (applied, broken) = self.applied.entry(rule).or_default();
        *applied += 1;
        *broken += 1;
        if self.violations.len() < TOLD {
            let mut about = about.to_vec();
            about.push(event);
            about.sort_unstable();
            about.dedup();
            self.violations.push(Violation { rule, event, about, what, wanted });
        }
    }
}

/// All rules, and what they have found.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    findings: Findings,
    flush: flush::Flush,
    dirty: dirty::Dirty,
    harvest: harvest::Harvest,
    marks: mark::Marks,
    retry: retry::Retry,
}

impl Rules {
    /// An event happens.
    pub(crate) fn see(&mut self, now: &Now<'_>) {
        let findings = &mut self.findings;
        orders::see(now, &self.flush, &self.retry, findings);
        step::see(now, findings);
        lock::see(now, findings);
        model::see(now, findings);
        unmap::see(now, findings);
        self.flush.see(now, findings);
        self.dirty.see(now, findings);
        self.harvest.see(now, findings);
        self.marks.see(now, findings);
        self.retry.see(now, findings);
    }

    /// There are no more.
    pub(crate) fn end(&mut self, last: u64, arch: Arch) {
        self.flush.end(last, arch, &mut self.findings);
    }

    /// Rules that say nothing of this recording, and why.
    pub(crate) fn left_out(&self, header: &Header, kernel: &Kernel) -> Vec<(Rule, String)> {
        let mut out = Vec::new();
        let mut leave = |rule, why: &str| out.push((rule, why.to_owned()));
        match header.arch {
            Arch::Arm64 => {
                leave(Rule::FlushBeforeEntry, "arm64 flushes by instructions, not by entries");
                leave(Rule::DirtyBeforeEntry, "arm64 lets no guest write without mmu_lock");
            }
            Arch::X86 => {
                leave(Rule::BreakBeforeMake, "x86 may map again first, and flush then");
                match kernel.model {
                    Some(_) => leave(Rule::Leaf, "as-the-model says more"),
                    None => {
                        leave(Rule::Leaf, "it is of arm64");
                        leave(Rule::Model, "the model has no TDP MMU");
                    }
                }
            }
        }
        if !header.guest {
            leave(Rule::NoStaleAccess, "accesses of guests were not recorded (--guest)");
        }
        if self.retry.reads == 0 {
            leave(Rule::FaultRetries, "no fault was seen to read the sequence of invalidations");
        }
        if !self.dirty.has_marks() {
            let why = "no call that marks a page dirty was seen";
            leave(Rule::DirtyBeforeUnlock, why);
            leave(Rule::HarvestTakesAll, why);
        }
        out
    }

    /// How often each was applied and broken, the first violations, and how often orders were seen.
    pub(crate) fn result(self) -> Found {
        let Findings { applied, violations, orders } = self.findings;
        Found { applied, violations, orders }
    }
}

/// What rules have found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) applied: BTreeMap<Rule, (u64, u64)>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) orders: BTreeMap<Order, u64>,
}
