//! Goal: dpor sees what naive sees: the same traces, final states, verdicts and violations. Method:
//! random small programs whose steps do all that steps can do: compound footprints, locks with
//! data, waits, retries, several outcomes, violations in mid-execution, stories.

use kvmmu_model::{Lock, LockClass, Mark, Object, Ordering::SeqCst, Platform, Tag, Until, Word};
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::program::{Instance, Moment, Program, Story};
use kvmmu_sim::rule::Rule;
use kvmmu_sim::{Goal, Sim, SimCell, SimLock, SimWord};
use proptest::prelude::*;

use super::random::{self, Agreed, Kind, NOTHING, agree, explore, others};

const WORDS: usize = 3;
const LOCKS: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    Load(usize),
    Store(usize, u64),
    Add(usize),
    /// Changes the word without seeing what it held: adds, sets bits or keeps them.
    Unseen(usize, u64),
    Cmpxchg(usize, u64, u64),
    /// Does the second operation if the word holds the value.
    If(usize, u64, Box<Op>),
    Locked(usize, Box<Op>),
    /// Changes what the lock guards.
    LockedData(usize, u64),
    WaitIs(usize, u64),
    WaitNot(usize, u64),
    /// A load; if it found the value, the step also peeks at a word and perhaps writes a cell.
    Compound(usize, u64, usize),
    /// A load; if it found the value, the step also writes the second word, else it peeks at the
    /// third.
    Route(usize, u64, usize, usize),
    /// Two outcomes if the word is odd, and the second one writes another word.
    Access(usize, usize),
    /// Until the first word holds the value: reads the second one, waits for a change, tries again.
    Retry(usize, usize, u64),
    /// Until the first word holds the value: adds to the second one and takes it back, waits for a
    /// change, tries again.
    RetryAdd(usize, usize, u64),
    /// A violation, if the word holds the value.
    Forbid(usize, u64),
    Mark(usize, u8),
}

#[derive(Clone, Debug)]
struct Random {
    threads: Vec<Vec<Op>>,
}

struct Built {
    threads: Vec<Vec<Op>>,
    sim: Sim,
    words: Vec<SimWord>,
    locks: Vec<SimLock<u64>>,
    cell: SimCell<u64>,
    /// What each thread observed.
    observed: Vec<SimCell<u64>>,
}

impl Program for Random {
    /// Random programs use locks as they like.
    fn lock_checks(&self) -> bool {
        false
    }
    fn threads(&self) -> Vec<String> {
        (0..self.threads.len()).map(|t| format!("t{t}")).collect()
    }
    /// Marks in any order and of any thread.
    fn witnesses(&self) -> Vec<Story> {
        let by = |mark, thread| Moment { mark: MARKS[mark], thread };
        let orders = [[0, 1], [1, 0], [0, 0]].map(|marks| marks.map(|mark| by(mark, None)));
        let threads = [[0, 1], [1, 0]].map(|threads| threads.map(|t| by(0, Some(t))));
        orders.into_iter().chain(threads).map(|moments| Story(moments.to_vec())).collect()
    }
    fn build(&self, sim: &Sim) -> Box<dyn Instance> {
        Box::new(Built {
            threads: self.threads.clone(),
            sim: *sim,
            words: (0..WORDS).map(|i| sim.word(Tag::nth(Object::Var, i), 0)).collect(),
            locks: (0..LOCKS).map(|i| sim.lock(LockClass::VarLock.nth(i), 0)).collect(),
            cell: sim.cell(0),
            observed: self.threads.iter().map(|_| sim.cell(0)).collect(),
        })
    }
}

impl Instance for Built {
    fn run(&self, thread: usize) {
        self.threads[thread].iter().for_each(|op| self.op(thread, op));
    }
    fn stop(&self) {
        if self.words[0].load(SeqCst) == 2 && self.cell.get() == 0 {
            self.sim.violate(Rule::Own("at-stop"), || "word 0 holds 2".to_string());
        }
    }
    fn choices(&self, request: u64) -> u8 {
        1 + (self.words[request as usize].peek() & 1) as u8
    }
}

impl Built {
    fn saw(&self, thread: usize, value: u64) {
        self.sim.observe(&value);
        let next = |seen: u64| seen.wrapping_mul(31).wrapping_add(value).wrapping_add(1);
        self.observed[thread].with(|seen| *seen = next(*seen));
    }

    fn op(&self, t: usize, op: &Op) {
        let w = &self.words;
        match op {
            Op::Load(i) => self.saw(t, w[*i].load(SeqCst)),
            Op::Store(i, v) => w[*i].store(*v, SeqCst),
            Op::Add(i) => drop(w[*i].fetch_add(1, SeqCst)),
            Op::Unseen(i, 0) => w[*i].add(1, SeqCst),
            Op::Unseen(i, 1) => w[*i].or(2, SeqCst),
            Op::Unseen(i, _) => w[*i].and(1, SeqCst),
            Op::Cmpxchg(i, old, new) => {
                let result = w[*i].compare_exchange(*old, *new, SeqCst, SeqCst);
                self.saw(t, result.is_ok() as u64);
            }
            Op::If(i, v, then) => {
                if w[*i].load(SeqCst) == *v {
                    self.op(t, then);
                }
            }
            Op::Locked(l, inner) => {
                let guard = self.locks[*l].lock();
                self.saw(t, *guard);
                self.op(t, inner);
            }
            Op::LockedData(l, v) => *self.locks[*l].lock() += v,
            Op::WaitIs(i, v) => self.saw(t, w[*i].wait_until(Until::Is(*v))),
            Op::WaitNot(i, v) => self.saw(t, w[*i].wait_until(Until::Not(*v))),
            Op::Compound(i, v, peeked) => {
                if w[*i].load(SeqCst) == *v && w[*peeked].peek() != 1 {
                    self.cell.with(|c| *c += 1);
                    self.saw(t, 7);
                }
            }
            Op::Route(i, v, to, from) => {
                if w[*i].load(SeqCst) == *v {
                    self.sim.hardware_write(&w[*to], 1);
                } else {
                    self.saw(t, w[*from].peek());
                }
            }
            Op::Access(i, j) => {
                let choice = self.sim.access(*i as u64);
                // What the number of outcomes depends on is read by each of them.
                let odd = w[*i].peek() & 1;
                self.saw(t, choice as u64 + odd);
                if choice == 1 {
                    self.sim.hardware_write(&w[*j], 2);
                }
            }
            Op::Retry(i, j, v) => {
                let (i, j) = (*i, *j);
                for _ in 0..3 {
                    self.sim.attempt_begin();
                    let found = w[i].load(SeqCst);
                    if found == *v {
                        break;
                    }
                    self.saw(t, w[j].load(SeqCst));
                    self.sim.wait_for_change();
                }
                self.sim.attempt_end();
            }
            Op::RetryAdd(i, j, v) => {
                for _ in 0..2 {
                    self.sim.attempt_begin();
                    if w[*i].load(SeqCst) == *v {
                        break;
                    }
                    w[*j].add(1, SeqCst);
                    w[*j].add(1_u64.wrapping_neg(), SeqCst);
                    self.sim.wait_for_change();
                }
                self.sim.attempt_end();
            }
            Op::Forbid(i, v) => {
                if w[*i].load(SeqCst) == *v {
                    let rule = Rule::Own(if *v == 0 { "forbidden-0" } else { "forbidden" });
                    self.sim.violate(rule, || format!("word {i} holds {v}"));
                }
            }
            Op::Mark(i, which) => {
                w[*i].load(SeqCst);
                self.sim.mark(MARKS[*which as usize]);
            }
        }
    }
}

const MARKS: [Mark; 2] = [Mark::FastFaultRead, Mark::SpteZapped];

fn word() -> impl Strategy<Value = usize> {
    0..WORDS
}

fn op(depth: u32) -> BoxedStrategy<Op> {
    let (w, v) = (word, || 0..3u64);
    let simple = prop_oneof![
        3 => w().prop_map(Op::Load),
        4 => (w(), v()).prop_map(|(i, v)| Op::Store(i, v)),
        2 => w().prop_map(Op::Add),
        3 => (w(), v()).prop_map(|(i, v)| Op::Unseen(i, v)),
        2 => (w(), v(), v()).prop_map(|(i, a, b)| Op::Cmpxchg(i, a, b)),
        2 => (0..LOCKS, v()).prop_map(|(l, v)| Op::LockedData(l, v)),
        1 => (w(), v()).prop_map(|(i, v)| Op::WaitIs(i, v)),
        2 => (w(), v()).prop_map(|(i, v)| Op::WaitNot(i, v)),
        3 => (w(), v(), w()).prop_map(|(i, v, j)| Op::Compound(i, v, j)),
        3 => (w(), v(), w(), w()).prop_map(|(i, v, j, k)| Op::Route(i, v, j, k)),
        2 => (w(), w()).prop_map(|(i, j)| Op::Access(i, j)),
        2 => (w(), w(), 1..3u64).prop_map(|(i, j, v)| Op::Retry(i, j, v)),
        1 => (w(), w(), 1..3u64).prop_map(|(i, j, v)| Op::RetryAdd(i, j, v)),
    ];
    if depth == 0 {
        return simple.boxed();
    }
    prop_oneof![
        8 => simple,
        2 => (w(), v(), op(depth - 1)).prop_map(|(i, v, op)| Op::If(i, v, Box::new(op))),
        2 => (0..LOCKS, op(depth - 1)).prop_map(|(l, op)| Op::Locked(l, Box::new(op))),
    ]
    .boxed()
}

fn program(op: impl Strategy<Value = Op> + Clone + 'static) -> impl Strategy<Value = Random> {
    let sizes = prop_oneof![
        3 => prop::collection::vec(1..=4usize, 2),
        4 => prop::collection::vec(1..=3usize, 3),
        2 => prop::collection::vec(1..=2usize, 4),
    ];
    random::threads(sizes, op).prop_map(|threads| Random { threads })
}

/// Programs with violations and marks.
fn with_violations() -> impl Strategy<Value = Random> {
    program(prop_oneof![
        4 => op(1),
        2 => (word(), 0..3u64).prop_map(|(i, v)| Op::Forbid(i, v)),
        2 => (word(), 0..2u8).prop_map(|(i, m)| Op::Mark(i, m)),
        1 => (0..LOCKS, word(), 0..2u64)
            .prop_map(|(l, i, v)| Op::Locked(l, Box::new(Op::Forbid(i, v)))),
    ])
}

/// Programs for other tests: without violations in mid-execution, and with them and a story.
pub(super) fn kinds() -> [Kind; 2] {
    [
        Kind::new("compound steps, waits and retries", nothing(false), program(op(2))),
        Kind::new("violations with stories", nothing(true), with_violations()),
    ]
}

/// Never found, so that everything is explored.
fn nothing(story: bool) -> Goal {
    let moment = |mark| Moment { mark, thread: None };
    let story = story.then(|| Story(MARKS.map(moment).to_vec()));
    Goal { rule: Some(NOTHING), story, nesting: None }
}

fn compare(
    program: &Random,
    story: bool,
    adds_commute: bool,
    lowest: bool,
    traces: bool,
) -> Result<(), TestCaseError> {
    let goal = nothing(story);
    let Agreed { naive, by_naive, record, by_dpor, .. } =
        agree(program, &goal, adds_commute, lowest)?;
    prop_assert_eq!(&by_dpor.seen, &by_naive.seen);
    if traces {
        prop_assert_eq!(record.traces.len(), naive.traces.len());
        prop_assert_eq!(record.traces, naive.traces);
        prop_assert_eq!(record.finals, naive.finals);
    }
    for rule in [Rule::Own("at-stop"), Rule::DEADLOCK, Rule::LIVELOCK, Rule::Own("forbidden")] {
        let goal = Goal { rule: Some(rule), ..goal.clone() };
        let verdict = explore(program, &goal, &mut Dpor::default()).verdict;
        match &verdict {
            Verdict::Violated(found) => {
                prop_assert_eq!((found.rule, found.story), (rule, true))
            }
            other => prop_assert_eq!(other, &Verdict::Holds),
        }
        let violated = matches!(verdict, Verdict::Violated(_));
        prop_assert_eq!(violated, others(&by_naive).contains(&(rule, true)));
    }
    Ok(())
}

/// What a step touches may depend on a step that it is independent of otherwise: found by these
/// tests.
#[test]
fn a_footprint_that_another_step_shrinks() {
    let program = || Random {
        threads: vec![
            vec![Op::Compound(0, 0, 2)],
            vec![Op::LockedData(0, 0), Op::Add(2), Op::Cmpxchg(0, 0, 0)],
            vec![Op::Compound(0, 0, 0)],
        ],
    };
    for (adds_commute, lowest) in [(false, false), (false, true), (true, false), (true, true)] {
        compare(&program(), false, adds_commute, lowest, true).expect("naive agrees");
    }
}

/// Either of two steps that commute ends the wait: found by these tests.
#[test]
fn a_wait_that_several_steps_can_end() {
    let adds = vec![vec![Op::WaitNot(1, 0)], vec![Op::Add(1)], vec![Op::Load(0), Op::Add(1)]];
    let retry = vec![vec![Op::Retry(0, 1, 5)], vec![Op::Store(0, 1)], vec![Op::Store(1, 1)]];
    let peers = vec![vec![Op::WaitNot(1, 0)], vec![Op::Add(1)], vec![Op::Add(1)], vec![Op::Add(1)]];
    for threads in [adds, retry, peers] {
        for (adds_commute, lowest) in [(false, false), (false, true), (true, false), (true, true)] {
            let program = Random { threads: threads.clone() };
            compare(&program, false, adds_commute, lowest, true).expect("naive agrees");
        }
    }
}

/// An attempt takes note of what it adds to, even if its thread does not: whether it is repeated
/// depends on that.
#[test]
fn additions_of_an_attempt() {
    let program = || Random {
        threads: vec![vec![Op::RetryAdd(0, 1, 1)], vec![Op::Unseen(1, 0)], vec![Op::Load(2)]],
    };
    for (adds_commute, lowest) in [(false, false), (false, true), (true, false), (true, true)] {
        compare(&program(), false, adds_commute, lowest, true).expect("naive agrees");
    }
}

proptest! {
    #![proptest_config(random::config())]

    #[test]
    fn every_trace_once(
        program in program(op(2)),
        adds_commute in any::<bool>(),
        lowest in any::<bool>(),
    ) {
        compare(&program, false, adds_commute, lowest, true)?;
    }

    // Traces are not compared: dpor need not see every place at which a violation ends an
    // execution.
    #[test]
    fn every_violation_with_and_without_its_story(
        program in with_violations(),
        story in any::<bool>(),
        lowest in any::<bool>(),
    ) {
        compare(&program, story, false, lowest, false)?;
    }
}
