//! An outcome in words, and how it differs from another.

use std::fmt::Display;

use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::ops::{Address, Op, SlotIndex, UserOp, VcpuOp};
use kvmmu_scenarios::outcome::{Asker, Frame, Harvest, Outcome, token};
use kvmmu_scenarios::scenario::ThreadKind;

/// What an outcome says, a sentence for each frame and each thread that harvests.
pub fn tell(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let mut told: Vec<String> = outcome.frames().iter().map(|f| frame(scenario, f)).collect();
    for same in outcome.harvests().chunk_by(|a, b| a.to == b.to) {
        let who = asker(scenario, same[0].to);
        let each: Vec<String> = same.iter().map(frames).collect();
        told.push(format!("{who} was told of {}", each.join(", then of ")));
    }
    told
}

/// The items in which two outcomes of one scenario differ: those of `outcome`.
pub fn differences(outcome: &Outcome, other: &Outcome) -> Vec<String> {
    fn differ<'a, T: PartialEq + Display>(a: &'a [T], b: &'a [T]) -> impl Iterator<Item = String> {
        let gone = a.len()..b.len();
        let changed = a.iter().enumerate().filter(|(i, item)| b.get(*i) != Some(*item));
        changed.map(|(_, item)| item.to_string()).chain(gone.map(|i| format!("no {}", b[i])))
    }
    let harvests = differ(outcome.harvests(), other.harvests());
    differ(outcome.frames(), other.frames()).chain(harvests).collect()
}

/// The outcome of `allowed` that differs from `outcome` in the fewest items.
pub fn nearest<'a>(
    outcome: &Outcome,
    allowed: impl Iterator<Item = &'a Outcome>,
) -> Option<&'a Outcome> {
    allowed.min_by_key(|one| differences(outcome, one).len())
}

/// True if outcomes of `scenario` have these frames and these harvests may be among theirs.
pub fn fits(scenario: &Scenario, outcome: &Outcome) -> bool {
    let frames = kvmmu_scenarios::outcome::frames(scenario);
    let mut expected: Vec<(u64, bool)> = frames.map(|(gfn, log)| (gfn.0, log)).collect();
    expected.sort_unstable();
    let has = outcome.frames().iter().map(|f| (f.gfn.0, f.copy.is_some()));
    let may = |h: &Harvest| {
        let slot = SlotIndex(h.slot);
        let asks = |op| {
            op == Op::User(UserOp::GetDirtyLog(slot)) || op == Op::User(UserOp::FetchDirtyLog(slot))
        };
        match h.to {
            Asker::Thread(t) => scenario
                .threads
                .get(usize::from(t))
                .is_some_and(|thread| thread.run.ops().any(|(_, op)| asks(op))),
            Asker::Stop => scenario.at_stop.ops().any(|(_, op)| asks(op)),
        }
    };
    has.eq(expected) && outcome.harvests().iter().all(may)
}

fn asker(scenario: &Scenario, asker: Asker) -> String {
    match asker {
        Asker::Thread(t) => match scenario.threads.get(usize::from(t)) {
            Some(thread) => thread.name.clone(),
            None => format!("thread {t}"),
        },
        Asker::Stop => "the stop phase".to_owned(),
    }
}

fn frame(scenario: &Scenario, frame: &Frame) -> String {
    let gfn = frame.gfn.0;
    let content = page(scenario, gfn, frame.content);
    match frame.copy {
        None => format!("gfn{gfn} has {content}"),
        Some(copy) if copy == frame.content => format!("gfn{gfn} and its copy have {content}"),
        Some(copy) => {
            format!("gfn{gfn} has {content}, but its copy has {}", page(scenario, gfn, copy))
        }
    }
}

/// What is in a page: whose stores.
fn page(scenario: &Scenario, gfn: u64, content: u64) -> String {
    let bytes = content.to_le_bytes();
    let set = bytes.iter().enumerate().filter(|(_, value)| **value != 0);
    let stores: Vec<String> = set.map(|(cpu, value)| store(scenario, gfn, cpu, *value)).collect();
    match stores.is_empty() {
        true => "no store".to_owned(),
        false => stores.join(" and "),
    }
}

/// The store that left `value` in a vCPU's byte of a page.
fn store(scenario: &Scenario, gfn: u64, cpu: usize, value: u8) -> String {
    let vcpu = scenario.threads.get(cpu).filter(|t| t.kind == ThreadKind::Vcpu);
    let Some(vcpu) = vcpu else { return format!("{value:#x} in byte {cpu}, which is nobody's") };
    let mut stores = vcpu.run.ops().filter_map(|(i, op)| match op {
        Op::Vcpu(VcpuOp::Write(address)) if token(i) == value => Some(address),
        _ => None,
    });
    match stores.next() {
        Some(Address::Gfn(to)) if to.0 != gfn => {
            format!("the store of {}'s operation {value}, which went to gfn{}", vcpu.name, to.0)
        }
        Some(_) => format!("the store of {}'s operation {value}", vcpu.name),
        None => format!("{value:#x}, which {} never stores", vcpu.name),
    }
}

fn frames(harvest: &Harvest) -> String {
    let gfns: Vec<String> =
        (0..64).filter(|g| harvest.frames >> g & 1 == 1).map(|g| format!("gfn{g}")).collect();
    match gfns.is_empty() {
        true => "nothing".to_owned(),
        false => gfns.join(" and "),
    }
}
