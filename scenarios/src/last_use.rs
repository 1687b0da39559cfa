//! What the programs of a scenario read for the last time. What nobody will read any more is said
//! to the machine ([`Platform::forget`]): an explorer need not tell states apart by it.
//!
//! Said is only what one thread reads, at the point after which it does not, and what no thread
//! reads at all, before the first step. A machine that sees it read all the same ends the run.
//!
//! [`Platform::forget`]: kvmmu_model::Platform::forget

use kvmmu_model::CpuId;
use kvmmu_model::virt::MEMSLOTS;

use crate::machine::Machine;
use crate::ops::{HostOp, Op, UserOp, VcpuOp};
use crate::outcome::Asker;
use crate::scenario::Scenario;
use crate::world::World;

/// Who reads something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reader {
    Nobody,
    One(Asker),
    Several,
}

impl Reader {
    fn of(scenario: &Scenario, reads: impl Fn(Op) -> bool) -> Reader {
        let threads = scenario.threads.iter().zip(0..);
        let programs =
            threads.map(|(t, i)| (Asker::Thread(i), t.run.ops().any(|(_, op)| reads(op))));
        let stop = (Asker::Stop, scenario.at_stop.ops().any(|(_, op)| reads(op)));
        let readers = programs.chain([stop]).filter(|(_, reads)| *reads);
        readers.fold(Reader::Nobody, |so_far, (who, _)| match so_far {
            Reader::Nobody => Reader::One(who),
            _ => Reader::Several,
        })
    }
}

/// Who reads what.
#[derive(Clone, Debug)]
pub(crate) struct Readers {
    /// The dirty log of each slot.
    log: [Reader; MEMSLOTS],
    /// The dirty flags of the host's pages.
    page_flags: Reader,
}

impl Readers {
    pub(crate) fn of(scenario: &Scenario) -> Readers {
        Readers {
            log: core::array::from_fn(|slot| Reader::of(scenario, |op| fetches_log(op, slot))),
            page_flags: Reader::of(scenario, reclaims),
        }
    }
}

fn fetches_log(op: Op, slot: usize) -> bool {
    use UserOp::{ClearDirtyLog, FetchDirtyLog, GetDirtyLog};
    matches!(op, Op::User(GetDirtyLog(of) | FetchDirtyLog(of) | ClearDirtyLog(of))
        if usize::from(of.0) == slot)
}

fn reclaims(op: Op) -> bool {
    matches!(op, Op::Host(HostOp::SwapOut(_)) | Op::User(UserOp::MadvisePageout(_)))
}

/// The guest itself runs.
fn enters(op: Op) -> bool {
    use VcpuOp::{AccessApic, Fetch, Read, Write};
    let enters = matches!(op, Op::Vcpu(Read(_) | Write(_) | Fetch(_) | AccessApic));
    enters || matches!(op, Op::Vcpu(op) if op.stores_gpte().is_some())
}

impl<M: Machine> World<M> {
    /// What no program reads. Before the first step.
    pub(crate) fn forget_what_nobody_reads(&self) {
        self.forget(Reader::Nobody, core::iter::empty());
    }

    /// What this thread alone reads, if it does not in any of these operations.
    pub(crate) fn forget_what_is_past(&self, who: Asker, rest: impl Iterator<Item = Op> + Clone) {
        self.forget(Reader::One(who), rest);
    }

    fn forget(&self, reader: Reader, rest: impl Iterator<Item = Op> + Clone) {
        for (index, slot) in self.vm.kvm.slots.iter().enumerate() {
            if let Some(slot) = slot
                && self.readers.log[index] == reader
                && !rest.clone().any(|op| fetches_log(op, index))
            {
                self.m.forget(&slot.dirty_bitmap);
            }
        }
        if self.readers.page_flags == reader && !rest.clone().any(reclaims) {
            self.vm.host.forget_page_flags();
        }
    }

    /// This thread fetches the log of a slot now, and these are what it does after that.
    pub(crate) fn fetches_log(&self, who: Asker, slot: u8, mut rest: impl Iterator<Item = Op>) {
        let index = usize::from(slot);
        if self.readers.log[index] == Reader::One(who)
            && !rest.any(|op| fetches_log(op, index))
            && let Some(slot) = &self.vm.kvm.slots[index]
        {
            self.m.forget_after_swap(&slot.dirty_bitmap);
        }
    }

    /// The requests to a vCPU that runs its guest in none of these operations, and with them its
    /// TLB.
    pub(crate) fn forget_guest(&self, cpu: CpuId, mut rest: impl Iterator<Item = Op>) {
        if !rest.any(enters) {
            self.m.forget(&self.vm.vcpu(cpu).requests);
        }
    }
}
