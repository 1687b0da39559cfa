//! What a flush costs, by its instructions.

use core::sync::atomic::Ordering::Relaxed;

use kvmmu_model::{CpuId, Gfn};

use super::super::own::migrating;
use super::super::tests::set_stop;
use super::{Bench, Cost, ns};
use crate::args::Tlbi;
use crate::el2::cpu::console::say;
use crate::el2::cpu::{smp, sysreg, tlbi, wait};
use crate::el2::machine::mmu::Shadow;
use crate::el2::machine::vcpu::{self, Path};
use crate::el2::memory::guest::{Context, Program};
use crate::el2::memory::{frames, stage2};
use crate::el2::run::once;

/// How often a flush is measured.
const FLUSHES: u64 = 200;

fn flush_name(kind: Option<Tlbi>) -> &'static str {
    match kind {
        None => "VMALLS12E1 (local)",
        Some(Tlbi::Ipa) => "IPAS2E1IS",
        Some(Tlbi::Page) => "IPAS2E1IS+VMALLE1IS",
        Some(Tlbi::Vm) => "VMALLS12E1IS",
        Some(Tlbi::None) => "none",
    }
}

impl Bench {
    /// Each kind, with nobody else running, and with guests.
    pub(super) fn flushes(&self) {
        say!("bench: cycles (ns) of a flush");
        say!("| {:20} | {:>20} | {:>20} |", "instruction", "others idle", "guests running");
        for kind in [None, Some(Tlbi::Ipa), Some(Tlbi::Page), Some(Tlbi::Vm)] {
            let row = [0, self.vcpus_max].map(|guests| self.flush(kind, guests));
            say!("| {:20} | {:>20} | {:>20} |", flush_name(kind), row[0].text(), row[1].text());
        }
    }

    /// Flushes by one CPU, while guests run on others.
    fn flush(&self, kind: Option<Tlbi>, guests: usize) -> Cost {
        let world = once::build::<Shadow>(&migrating());
        let cost = spin::Mutex::new(Cost { cycles: 0, ns: 0 });
        smp::parallel(guests + 1, &|i| {
            if let Some(vcpu) = i.checked_sub(1) {
                let x = [stage2::ipa(vcpu as u64), 0, stage2::CONTROL_IPA, 0, 0, 0, 0, 0];
                let guest = &mut Context::new(Program::Count, x);
                vcpu::run(&world, CpuId(vcpu as u8), guest, Path::Fast);
                return;
            }
            // ORDERING: relaxed: a look.
            let stores = |guest: usize| frames::page_word(guest, 0).load(Relaxed) != 0;
            wait::until("guests to run", || (0..guests).all(stores));
            let page = || core::iter::once(Gfn(0));
            let (ticks, cycles) = (sysreg::now(), sysreg::cycles());
            for _ in 0..FLUSHES {
                match kind {
                    None => tlbi::flush_local(),
                    Some(kind) => tlbi::flush_by(kind, page()),
                }
            }
            let (cycles, ticks) = (sysreg::cycles().wrapping_sub(cycles), sysreg::now() - ticks);
            *cost.lock() = Cost { cycles: cycles / FLUSHES, ns: ns(ticks) / FLUSHES };
            set_stop(true);
        });
        let cost = *cost.lock();
        say!(
            "{{\"kvmmu-figure\":1,\"name\":\"flush\",\"by\":\"{}\",\"guests\":{guests},\
             \"cycles\":{},\"ns\":{},\"twice\":{},{}",
            flush_name(kind),
            cost.cycles,
            cost.ns,
            tlbi::is_twice(),
            self.about()
        );
        cost
    }
}
