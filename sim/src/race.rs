//! A scenario as a program of the simulator.

use kvmmu_model::{Gfn, GuardSet, Object, Spte, Tag};
use kvmmu_scenarios::scenario::Witness;
use kvmmu_scenarios::{Scenario, World, oracle};

use crate::hardware;
use crate::program::{Instance, Moment, Program, Story};
use crate::{Goal, Sim};

/// A scenario with some guards taken away.
#[derive(Clone, Debug)]
pub struct Race {
    scenario: Scenario,
    without: GuardSet,
}

impl Race {
    /// This scenario without these guards.
    pub fn new(scenario: Scenario, without: GuardSet) -> Race {
        Race { scenario, without }
    }

    /// The scenario.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// What its own expectation looks for; any violation if it expects none.
    pub fn goal(&self) -> Goal {
        let expect = self.scenario.expects.iter().find(|e| e.without == self.without);
        expect.map_or(Goal::ANY, |e| Goal {
            property: e.property.map(|p| p.name()),
            story: e.story.as_ref().map(story),
        })
    }
}

/// A witness as the engine watches for it.
pub fn story(witness: &Witness) -> Story {
    let moment = |m: &kvmmu_scenarios::scenario::Moment| Moment { mark: m.mark, thread: m.thread };
    Story(witness.moments.iter().map(moment).collect())
}

impl Program for Race {
    fn threads(&self) -> Vec<String> {
        self.scenario.threads.iter().map(|t| t.name.clone()).collect()
    }
    fn without(&self) -> GuardSet {
        self.without
    }
    fn witnesses(&self) -> Vec<Story> {
        self.scenario.sometimes.iter().map(story).collect()
    }
    fn build(&self, platform: &Sim) -> Box<dyn Instance> {
        let scenario = self.scenario.clone();
        Box::new(RaceInstance { world: World::new(platform, &scenario), scenario })
    }
}

/// A scenario's world on a machine.
struct RaceInstance {
    world: World<Sim>,
    scenario: Scenario,
}

impl Instance for RaceInstance {
    fn run(&self, thread: usize) {
        self.world.run_thread(&self.scenario, thread);
    }
    fn stop(&self) {
        self.world.run_stop(&self.scenario);
    }
    fn choices(&self, request: u64) -> u8 {
        if request == u64::MAX { 1 } else { hardware::choices(&self.world, request) }
    }
    fn spte_written(&self, tag: Tag, _old: u64, new: u64) {
        hardware::spte_written(&self.world, tag, new);
    }
    fn released(&self, tag: Tag) {
        if tag.object == Object::MmuLock {
            let mmu = &self.world.mmu;
            let spte = |loc| Spte(mmu.sptep(loc).peek());
            let gfns = |loc: kvmmu_model::SpteLoc| {
                let table = &mmu.tables[usize::from(loc.sp.0)];
                Gfn(table.gfns[usize::from(loc.index)].peek())
            };
            oracle::check_release(&self.world, &mmu.mmu_lock.peek(), spte, gfns);
            hardware::check_release(&self.world);
        }
    }
}
