//! How a scenario grows with vCPUs, their writes, and a thread that swaps out.

use std::fmt;
use std::time::Instant;

use kvmmu_model::GuardSet;
use kvmmu_scenarios::loader;
use kvmmu_sim::outcome::{Outcome, Verdict};
use kvmmu_sim::race::Race;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Cores, Explorer, Limits};

/// vCPUs that write one page, with the harvest of its dirty log.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// How many vCPUs.
    pub vcpus: usize,
    /// How many writes each.
    pub writes: usize,
    /// A thread of the host swaps the page out.
    pub swap_out: bool,
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let swap = if self.swap_out { " + swap-out" } else { "" };
        let text = format!("{} vCPUs x {} + harvest{swap}", self.vcpus, self.writes);
        f.pad(&text)
    }
}

impl Growth {
    /// The sizes that take seconds, and those that take minutes and gigabytes.
    pub const SMALL: [Growth; 3] =
        [Growth::new(1, 1, true), Growth::new(2, 1, false), Growth::new(2, 2, false)];
    /// See [`Growth::SMALL`].
    pub const LARGE: [Growth; 3] =
        [Growth::new(2, 1, true), Growth::new(3, 1, false), Growth::new(3, 1, true)];

    /// So many vCPUs, writes, and whether the page is swapped out.
    pub const fn new(vcpus: usize, writes: usize, swap_out: bool) -> Growth {
        Growth { vcpus, writes, swap_out }
    }

    /// The text of the scenario.
    pub fn scenario(&self) -> String {
        let mut text = HEAD.to_owned();
        let mut thread = |name: &str, run: &str| {
            text += &format!("[[thread]]\nname = \"{name}\"\nrun  = [{run}]\n\n");
        };
        for vcpu in 0..self.vcpus {
            thread(&format!("vcpu{vcpu}"), &vec![r#""write gfn0""#; self.writes].join(", "));
        }
        if self.swap_out {
            thread("host", r#""swap-out gfn0""#);
        }
        thread("user", HARVEST);
        text + &format!("[at-stop]\nrun = [{HARVEST}]\n\n[check]\nalways = [{ALWAYS}]\n")
    }

    /// Explores all of it by few states, with so many threads to help; gives the outcome and the
    /// seconds.
    ///
    /// # Panics
    /// If the scenario does not load.
    pub fn explore(&self, helpers: usize) -> (Outcome, f64) {
        let scenario = loader::load("growth.toml", &self.scenario(), 1);
        let race = Race::new(scenario.expect("the scenario loads"), GuardSet::EMPTY);
        let cores: &'static Cores = Box::leak(Box::new(Cores::new(helpers, SHARED_FROM)));
        let limits = Limits {
            states_max: u64::MAX,
            cores: (helpers > 0).then_some(cores),
            ..Limits::default()
        };
        let mut stateful = Stateful { reduced: true, ..Stateful::default() };
        let started = Instant::now();
        let outcome = stateful.explore(&race, &race.goal(), &limits, &|_| true);
        assert_eq!(outcome.verdict, Verdict::Holds, "{self}");
        (outcome, started.elapsed().as_secs_f64())
    }
}

/// From how many states on threads help: as in `kvmmu check`.
const SHARED_FROM: u64 = 250_000;

const HARVEST: &str = r#""get-dirty-log slot0", "copy-harvested""#;
const ALWAYS: &str = r#""migration", "spte-legal""#;

const HEAD: &str = r#"title  = "Growth"
source = "none"
about  = "Writes beside a harvest."
paging = "direct"
spte   = "ept"

[[slot]]
gfn   = 0
pages = 1
log   = true

[map]
"gfn0" = { pfn = 0, spte = "110", accessed = true, dirty = true }

"#;
