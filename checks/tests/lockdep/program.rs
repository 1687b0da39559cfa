//! Goal: tests can tell what happens in a program of locks. Method: a small interpreter, and a
//! machine that runs one program in place of every scenario.

use kvmmu::cli::exit::Failure;
use kvmmu::lab::replayed::{Example, Replayed};
use kvmmu::lab::run::{self, Machine, Minimised, Progress};
use kvmmu::lab::search::Search;
use kvmmu::lab::variant::{Goal, Variant};
use kvmmu_model::{Lock, LockId, LockKind, Mode, Object, Platform, Rcu, RwLock, Srcu, Tag};
use kvmmu_scenarios::lockdep::Nesting;
use kvmmu_sim::minimise::minimise;
use kvmmu_sim::outcome::{Found, Outcome};
use kvmmu_sim::platform::Sim;
use kvmmu_sim::program::{Instance, Program};
use kvmmu_sim::replay::replay;
use kvmmu_sim::schedule::Schedule;
use kvmmu_sim::{Auto, Engine, Explorer, Limits};

/// What a thread does.
#[derive(Clone, Debug)]
pub(crate) enum Do {
    /// In this function: takes a lock, does these things inside, gives it back.
    Hold(&'static str, LockId, Mode, Vec<Do>),
    /// In this function: waits for a grace period.
    Synchronize(&'static str, LockId),
    /// In this function: reads an object that something protects.
    Read(&'static str, Object),
}

/// A program of locks: what each thread does.
#[derive(Clone, Debug)]
pub(crate) struct Locking {
    pub(crate) threads: Vec<Vec<Do>>,
    pub(crate) lock_checks: bool,
}

/// Locks of a program, made.
enum Made {
    Alone(<Sim as Platform>::Lock<()>),
    Shared(<Sim as Platform>::RwLock<()>),
    Srcu(<Sim as Platform>::Srcu),
    Rcu(<Sim as Platform>::Rcu),
}

struct Running {
    sim: Sim,
    threads: Vec<Vec<Do>>,
    locks: Vec<(LockId, Made)>,
}

impl Program for Locking {
    fn threads(&self) -> Vec<String> {
        (0..self.threads.len()).map(|i| format!("t{i}")).collect()
    }
    fn lock_checks(&self) -> bool {
        self.lock_checks
    }
    fn build(&self, sim: &Sim) -> Box<dyn Instance> {
        let mut locks: Vec<(LockId, Made)> = Vec::new();
        let mut todo: Vec<&Do> = self.threads.iter().flatten().collect();
        while let Some(next) = todo.pop() {
            let id = match next {
                Do::Hold(_, id, _, inside) => {
                    todo.extend(inside);
                    *id
                }
                Do::Synchronize(_, id) => *id,
                Do::Read(..) => continue,
            };
            if !locks.iter().any(|(known, _)| *known == id) {
                let made = match id.class.info().kind {
                    LockKind::Srcu => Made::Srcu(sim.srcu(id)),
                    LockKind::Rcu => Made::Rcu(sim.rcu(id)),
                    kind if kind.has_readers() => Made::Shared(sim.rw_lock(id, ())),
                    _ => Made::Alone(sim.lock(id, ())),
                };
                locks.push((id, made));
            }
        }
        // Made for what a program needs that has no locks at all.
        let _ = sim.word(Tag::nth(Object::Var, 0), 0);
        Box::new(Running { sim: *sim, threads: self.threads.clone(), locks })
    }
}

impl Instance for Running {
    fn run(&self, thread: usize) {
        self.all(&self.threads[thread]);
    }
}

impl Running {
    fn made(&self, id: LockId) -> &Made {
        let (_, made) = self.locks.iter().find(|(known, _)| *known == id).expect("it was made");
        made
    }

    fn all(&self, list: &[Do]) {
        for next in list {
            match next {
                Do::Hold(function, id, mode, inside) => {
                    self.sim.call(function, || self.hold(*id, *mode, inside));
                }
                Do::Synchronize(function, id) => self.sim.call(function, || {
                    let Made::Srcu(srcu) = self.made(*id) else { unreachable!("it is an SRCU") };
                    srcu.synchronize();
                }),
                Do::Read(function, object) => {
                    self.sim.call(function, || self.sim.reads(*object));
                }
            }
        }
    }

    fn hold(&self, id: LockId, mode: Mode, inside: &[Do]) {
        match (self.made(id), mode) {
            (Made::Alone(lock), _) => {
                let _guard = lock.lock();
                self.all(inside);
            }
            (Made::Shared(lock), Mode::Read) => {
                let _guard = lock.read();
                self.all(inside);
            }
            (Made::Shared(lock), _) => {
                let _guard = lock.write();
                self.all(inside);
            }
            (Made::Srcu(srcu), _) => {
                let _section = srcu.read_lock();
                self.all(inside);
            }
            (Made::Rcu(rcu), _) => {
                let _section = rcu.read_lock();
                self.all(inside);
            }
        }
    }
}

/// A machine that runs this program, whatever scenario it is asked for.
impl Machine for Locking {
    fn explore(
        &self,
        _: &Variant,
        goal: &Goal,
        search: &Search,
        progress: Progress<'_>,
    ) -> Result<Outcome, Failure> {
        let goal = kvmmu_sim::Goal { rule: goal.rule, ..kvmmu_sim::Goal::ANY };
        let limits = Limits { seed: search.seed, ..Limits::default() };
        Ok(Auto::default().explore(self, &goal, &limits, progress))
    }

    fn minimise(
        &self,
        _: &Variant,
        goal: &Goal,
        found: &Found,
        _: &Search,
        progress: Progress<'_>,
    ) -> Result<Minimised, Failure> {
        let goal = kvmmu_sim::Goal { rule: goal.rule, ..kvmmu_sim::Goal::ANY };
        let limits = Limits { states_max: 100_000, ..Limits::default() };
        let mut engine = Engine::new(self, goal);
        let small = minimise(&mut engine, &found.schedule, &limits, progress);
        let found = Found { schedule: small.schedule, ..found.clone() };
        Ok(Minimised { found, exact: small.exact, cut: small.cut })
    }

    fn witness(
        &self,
        _: &Variant,
        nesting: Nesting,
        search: &Search,
        progress: Progress<'_>,
    ) -> Result<Option<Example>, Failure> {
        run::witness(self, nesting, search, progress)
    }

    fn replay(&self, _: &Variant, schedule: &Schedule) -> Result<Replayed, Failure> {
        let mut engine = Engine::new(self, kvmmu_sim::Goal::ANY);
        Ok(replay(&mut engine, schedule).expect("the schedule fits").into())
    }
}
