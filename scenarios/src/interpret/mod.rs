//! Operations, interpreted: the same code on every machine.
//!
//! Each operation is a `call`, with a checkpoint before it and before each retry of an instruction.

mod host;
mod kvm;
pub(crate) mod locks;
mod user;
mod vcpu;

use core::hash::Hash;
use core::slice;

use kvmmu_model::CpuId;

use self::locks::Holds;
use crate::machine::Machine;
use crate::ops::{Op, UserOp};
use crate::outcome::Asker;
use crate::program::{OffVcpu, Program, Step, Steps};
use crate::scenario::Scenario;
use crate::world::World;

impl<M: Machine> World<M> {
    /// Runs the program of a thread.
    ///
    /// # Panics
    /// If there is no such thread.
    pub fn run_thread(&self, scenario: &Scenario, thread: usize) {
        let program = &scenario.threads[thread].run;
        if thread == 0 {
            crate::oracle::check_start(self);
        }
        match program {
            Program::Vcpu(steps) => self.run_vcpu(CpuId(thread as u8), steps),
            Program::Other(steps) => self.run_other(Asker::Thread(thread as u8), steps),
        }
    }

    /// What user space does at the end, and then the checks of the end.
    pub fn run_stop(&self, scenario: &Scenario) {
        self.run_other(Asker::Stop, &scenario.at_stop);
        crate::oracle::check_end(self);
    }

    /// Runs a program of the host or of user space.
    fn run_other(&self, who: Asker, steps: &Steps<OffVcpu>) {
        self.holding(steps, |held| self.run_other_holding(who, steps, held));
    }

    fn run_other_holding<'a>(
        &'a self,
        who: Asker,
        steps: &Steps<OffVcpu>,
        held: &mut Holds<'a, M>,
    ) {
        let mut rest = Rest::of(steps);
        while let Some((_, op)) = self.next_op(&mut rest, ()) {
            if let OffVcpu::User(UserOp::GetDirtyLog(slot)) = op {
                self.fetches_log(who, slot.0, rest.ops());
            }
            match op {
                OffVcpu::Host(op) => self.run_host_op(op),
                OffVcpu::User(op) => self.run_user_op(who, op),
                OffVcpu::Lock(op) => self.run_lock_op(op, held),
            }
            self.forget_what_is_past(who, rest.ops());
        }
    }

    /// The next operation of a program and its number, where a choice has been made. `None` at the
    /// end of the program. All that the thread still depends on is where it is in its program, and
    /// `live`.
    fn next_op<T: Copy>(
        &self,
        rest: &mut Rest<'_, T>,
        live: impl Hash + Copy,
    ) -> Option<(usize, T)> {
        let at = rest.at;
        self.m.checkpoint((at, live));
        let step = rest.steps.next()?;
        rest.at += step.len();
        match step {
            Step::One(op) => Some((at, *op)),
            Step::OneOf(ops) => {
                let choice = usize::from(self.m.choose(ops.len() as u8));
                let chosen = at + 1 + choice;
                self.m.checkpoint((chosen, live));
                Some((chosen, ops[choice]))
            }
        }
    }
}

/// What is left of a program.
struct Rest<'p, T> {
    steps: slice::Iter<'p, Step<T>>,
    /// The number of the next step.
    at: usize,
}

impl<'p, T> Rest<'p, T> {
    /// All of it.
    fn of(steps: &'p Steps<T>) -> Self {
        Rest { steps: steps.0.iter(), at: 0 }
    }
}

impl<T: Copy + Into<Op>> Rest<'_, T> {
    /// The operations that it may come to.
    fn ops(&self) -> impl Iterator<Item = Op> + Clone {
        let ops = self.steps.clone().flat_map(|step| match step {
            Step::One(op) => slice::from_ref(op),
            Step::OneOf(ops) => ops,
        });
        ops.map(|op| (*op).into())
    }
}
