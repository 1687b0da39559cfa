//! A program without lock checks.

use kvmmu_model::GuardSet;
use kvmmu_sim::Sim;
use kvmmu_sim::program::{Instance, Program, Story};

/// The same program with lock checks turned off.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked<P>(pub P);

impl<P: Program> Program for Unchecked<P> {
    fn threads(&self) -> Vec<String> {
        self.0.threads()
    }
    fn without(&self) -> GuardSet {
        self.0.without()
    }
    fn lock_checks(&self) -> bool {
        false
    }
    fn witnesses(&self) -> Vec<Story> {
        self.0.witnesses()
    }
    fn build(&self, platform: &Sim) -> Box<dyn Instance> {
        self.0.build(platform)
    }
}
