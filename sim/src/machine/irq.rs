//! Interrupts: one word per CPU, [`OFF`] while interrupts are off and a bit for each sender whose
//! IPI has not been handled.
//!
//! An IPI to a CPU with interrupts on is handled at once: it has no effect here but that its sender
//! does not wait. One to a CPU with interrupts off stays pending until they are on again, which
//! handles every pending IPI. A guest runs with interrupts off and leaves when one is pending.

use core::panic::Location;
use kvmmu_model::{CpuId, CpuMask, Object, Tag, Until};

use super::THREADS_MAX;
use super::lockdep::IRQS_OFF;
use super::pending::{Kind, Pending};
use super::state::Machine;
use super::word::SimWord;
use crate::record::event::Write;

const OFF: u64 = 1 << 63;

/// Makes the words of CPUs 0 to `cpus`.
pub(crate) fn build(machine: &Machine, cpus: usize) {
    for cpu in 0..cpus {
        let word = machine.new_word(Tag::nth(Object::Irq, cpu), 0);
        if cpu == 0 {
            machine.irqs.set(word);
        }
    }
}

fn word(machine: &'static Machine, cpu: CpuId) -> SimWord {
    let (loc, cell) = machine.irqs.get();
    let (loc, cell) = (loc + cpu.0 as u16, cell + cpu.0 as u16);
    assert!(machine.tag(loc) == Tag::nth(Object::Irq, cpu.0 as usize), "no such CPU: {cpu:?}");
    SimWord::at(machine, (loc, cell))
}

/// Turns interrupts off.
pub(crate) fn disable(m: &'static Machine, cpu: CpuId, site: &'static Location<'static>) {
    let irq = word(m, cpu);
    irq.pause(Kind::Store, 0, site);
    irq.note(1);
    irq.write(OFF, Write::Store, site);
    m.hold(IRQS_OFF);
}

/// Turns interrupts on and handles those that are pending.
pub(crate) fn enable(m: &'static Machine, cpu: CpuId, site: &'static Location<'static>) {
    let irq = word(m, cpu);
    irq.pause(Kind::Store, 0, site);
    irq.note(1);
    irq.write(0, Write::Store, site);
    m.unhold(IRQS_OFF);
}

/// True if an IPI is pending.
pub(crate) fn pending(m: &'static Machine, cpu: CpuId, site: &'static Location<'static>) -> bool {
    let irq = word(m, cpu);
    irq.pause(Kind::Load, 0, site);
    let pending = irq.value(site) & !OFF != 0;
    irq.note(pending as u64);
    pending
}

/// Sends an IPI to each target, and then waits for each that did not handle it at once. All that
/// the sender remembers of them is to which it still has to send one, and which it still waits for.
pub(crate) fn call_many(
    m: &'static Machine,
    me: Option<CpuId>,
    targets: CpuMask,
    wait: bool,
    site: &'static Location<'static>,
) {
    let slot = 1 << (m.running.get() as usize % (THREADS_MAX + 1));
    let (thread, before) = (m.thread(), m.thread().seen.get());
    let remember = |unsent: CpuMask, owed: CpuMask| {
        thread.seen.set(before.then(unsent.0).then(owed.0));
    };
    let (mut unsent, mut owed) = (targets, CpuMask(0));
    if let Some(me) = me {
        unsent.0 &= !(1 << me.0);
    }
    for cpu in unsent.iter() {
        remember(unsent, owed);
        let irq = word(m, cpu);
        irq.pause(Kind::Rmw, 0, site);
        let old = irq.value(site);
        if old & OFF != 0 {
            irq.write(old | slot, Write::Or, site);
            if wait {
                owed.insert(cpu);
            }
        }
        unsent.0 &= !(1 << cpu.0);
    }
    for cpu in owed.iter() {
        remember(CpuMask(0), owed);
        let irq = word(m, cpu);
        let (kind, arg) = Pending::wait(Until::NotAll(OFF | slot));
        irq.pause(kind, arg, site);
        irq.value(site);
        owed = CpuMask(owed.0 & !(1 << cpu.0));
    }
    remember(CpuMask(0), CpuMask(0));
}
