//! Stories of arm64 that holding all threads in one way does not tell: more moments than the file
//! has, and for each thread where it is held until its next one.

use kvmmu_model::Mark;
use kvmmu_scenarios::scenario::{Scenario, Witness};

use crate::el2::record::story::Force::{AtMarks, BeforeStores, Delays, WithoutLocks};
use crate::el2::record::story::{Hold, Moment, Plan};

/// A story, as a schedule.
struct Schedule {
    /// The file, without a version.
    scenario: &'static str,
    /// The last moment of the file's story, by which that is found.
    ends: &'static str,
    /// How each thread is held at first.
    first: &'static [Hold],
    /// Which thread passes which mark, and how it is held from then on.
    moments: &'static [(usize, Mark, Hold)],
}

/// It waits where it begins, and goes on to its end when it is its turn. As `first`.
const WAITS: Hold = Hold::at(Delays);
/// It goes on to its end: the same, of a thread that has begun.
const RUNS: Hold = Hold::at(Delays);
const V0: usize = 0;
const V1: usize = 1;

const SCHEDULES: &[Schedule] = &[
    // vcpu1 maps the frame after vcpu0 has broken the sharing, so that vcpu0 does not.
    Schedule {
        scenario: "s2-host-readonly",
        ends: "guest-write@vcpu0",
        first: &[WAITS],
        moments: &[
            (V0, Mark::RangeEnded, Hold::at(WithoutLocks)),
            (V1, Mark::Stage2Mapped, Hold::at(AtMarks)),
            (V1, Mark::Stage2Mapped, Hold::at(WithoutLocks)),
            (V0, Mark::GuestWrite, RUNS),
        ],
    },
    // What is in the TLB since before the log began is used when the copy is made.
    Schedule {
        scenario: "s2-log-begins",
        ends: "memslots-installed@user",
        first: &[WAITS],
        moments: &[(V0, Mark::GuestWrite, Hold::at(AtMarks)), (1, Mark::PageCopied, RUNS)],
    },
    // The harvest takes W between the stores to the two pages of the block.
    Schedule {
        scenario: "s2-log-block",
        ends: "perms-relaxed@vcpu0",
        first: &[WAITS],
        moments: &[
            (V0, Mark::GuestWrite, Hold::at(AtMarks)),
            (1, Mark::PageCopied, RUNS),
            (V0, Mark::PermsRelaxed, RUNS),
        ],
    },
    // The harvest has taken W, and is about to flush.
    Schedule {
        scenario: "s2-log-mark",
        ends: "stale-translation@vcpu0",
        first: &[WAITS],
        moments: &[
            (V0, Mark::GuestWrite, Hold::at(AtMarks)),
            (1, Mark::WriteProtected, Hold::at(BeforeStores)),
            (V0, Mark::StaleTranslation, RUNS),
        ],
    },
    // vcpu0 has looked the slot up before the log begins, and vcpu1 looks it up after.
    Schedule {
        scenario: "s2-pa-from-ipa",
        ends: "stage2-mapped@vcpu0",
        first: &[Hold::early(WithoutLocks), WAITS, Hold::early(Delays)],
        moments: &[
            (2, Mark::MemslotsInstalled, RUNS),
            (V1, Mark::Gup, Hold::at(WithoutLocks)),
            (V0, Mark::Stage2Mapped, Hold::at(AtMarks)),
            (V1, Mark::Stage2Mapped, Hold::at(WithoutLocks)),
            (V0, Mark::Stage2Mapped, RUNS),
        ],
    },
    Schedule {
        scenario: "s2-pa-from-ipa",
        ends: "stage2-again@vcpu0",
        first: &[Hold::early(WithoutLocks), WAITS, Hold::early(Delays)],
        moments: &[
            (2, Mark::MemslotsInstalled, RUNS),
            (V1, Mark::Gup, Hold::at(WithoutLocks)),
            (V0, Mark::Stage2Mapped, Hold::at(AtMarks)),
            (V1, Mark::Stage2Mapped, Hold::at(AtMarks)),
            (V0, Mark::Stage2Again, RUNS),
        ],
    },
    Schedule {
        scenario: "s2-relax-vs-split",
        ends: "stage2-again@vcpu0",
        first: &[Hold::early(WithoutLocks), WAITS, Hold::early(Delays)],
        moments: &[
            (2, Mark::MemslotsInstalled, RUNS),
            (V0, Mark::SlowFault, Hold::at(BeforeStores)),
            (V1, Mark::Stage2Broken, RUNS),
            (V0, Mark::Stage2Again, RUNS),
        ],
    },
    Schedule {
        scenario: "s2-relax-vs-split",
        ends: "stage2-again@vcpu1",
        first: &[Hold::early(WithoutLocks), WAITS, Hold::early(Delays)],
        moments: &[
            (2, Mark::MemslotsInstalled, RUNS),
            (V1, Mark::SlowFault, Hold::at(BeforeStores)),
            (V0, Mark::PermsRelaxed, RUNS),
            (V1, Mark::Stage2Again, RUNS),
        ],
    },
    // vcpu1 is in the table, and about to store to it.
    Schedule {
        scenario: "s2-unlinked-rcu",
        ends: "table-freed@vcpu0",
        first: &[WAITS, Hold::early(BeforeStores), WAITS, Hold::early(Delays)],
        moments: &[(3, Mark::MemslotsInstalled, RUNS), (V0, Mark::TableFreed, RUNS)],
    },
    Schedule {
        scenario: "s2-unlinked-rcu",
        ends: "table-freed@host",
        first: &[WAITS, Hold::early(BeforeStores), WAITS, Hold::early(Delays)],
        moments: &[
            (3, Mark::MemslotsInstalled, RUNS),
            (V0, Mark::TableMerged, RUNS),
            (V1, Mark::Stage2Mapped, RUNS),
            (2, Mark::TableFreed, RUNS),
        ],
    },
    // The host has unmapped the page, and is about to flush it.
    Schedule {
        scenario: "s2-unmap",
        ends: "host-unmapped@host",
        first: &[Hold::early(Delays), Hold::early(BeforeStores).after(1)],
        moments: &[(V0, Mark::StaleTranslation, RUNS), (1, Mark::HostUnmapped, RUNS)],
    },
    Schedule {
        scenario: "s2-early-completion",
        ends: "host-unmapped@host",
        first: &[Hold::early(Delays), Hold::early(BeforeStores).after(1)],
        moments: &[(V0, Mark::StaleTranslation, RUNS), (1, Mark::HostUnmapped, RUNS)],
    },
    // The invalidation comes between the check and the lock of the map.
    Schedule {
        scenario: "s2-retry",
        ends: "range-started@host < stage2-mapped@vcpu0",
        first: &[Hold::early(WithoutLocks).after(3), Hold::early(Delays)],
        moments: &[(1, Mark::HostUnmapped, RUNS), (V0, Mark::Stage2Mapped, RUNS)],
    },
    // The VM goes while the first chunk is unmapped and the second is not.
    Schedule {
        scenario: "s2-teardown",
        ends: "vm-released@user1",
        first: &[WAITS],
        moments: &[
            (V0, Mark::GuestWrite, RUNS),
            (1, Mark::TableFreed, Hold::at(WithoutLocks)),
            (2, Mark::TableFreed, Hold::at(AtMarks)),
            (1, Mark::Stage2Gone, RUNS),
            (2, Mark::VmReleased, RUNS),
        ],
    },
    Schedule {
        scenario: "s2-teardown",
        ends: "table-freed@user1",
        first: &[WAITS],
        moments: &[
            (V0, Mark::GuestWrite, RUNS),
            (1, Mark::TableFreed, Hold::at(WithoutLocks)),
            (2, Mark::VmReleased, RUNS),
        ],
    },
];

/// The schedules of a story.
pub(super) fn of(scenario: &Scenario, witness: &Witness) -> impl Iterator<Item = Plan> {
    let is_of = |schedule: &&Schedule| {
        let version = scenario.name.strip_prefix(schedule.scenario);
        let is_named = version.is_some_and(|v| v.is_empty() || v.starts_with("-v"));
        is_named && witness.text.ends_with(schedule.ends)
    };
    let moment = |(thread, mark, _): &(usize, Mark, Hold)| Moment { thread: *thread, mark: *mark };
    SCHEDULES.iter().filter(is_of).map(move |schedule| Plan {
        moments: schedule.moments.iter().map(moment).collect(),
        first: schedule.first.to_vec(),
        then: schedule.moments.iter().map(|(.., then)| *then).collect(),
    })
}
