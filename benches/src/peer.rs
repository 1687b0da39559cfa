//! A peer in a process of its own: loom does not work in a process in which shuttle has run.

use std::process::Command;
use std::time::Duration;

use kvmmu_model::{Guarded, Rcu, RwLock, Srcu};
use kvmmu_sim::mini::{FastFault, LastZero};

/// A program that is measured.
#[derive(Clone, Copy, Debug)]
pub enum Subject {
    /// [`FastFault`] with so many vCPUs and writes each.
    FastFault(usize, usize),
    /// [`LastZero`] with so many writers.
    LastZero(usize),
}

impl Subject {
    /// Everything that is measured.
    pub const ALL: [Subject; 5] = [
        Subject::FastFault(2, 1),
        Subject::FastFault(2, 2),
        Subject::FastFault(3, 1),
        Subject::LastZero(3),
        Subject::LastZero(15),
    ];

    /// What it is called on the command line.
    pub fn name(self) -> String {
        match self {
            Subject::FastFault(vcpus, writes) => format!("fast-fault-{vcpus}x{writes}"),
            Subject::LastZero(n) => format!("lastzero-{n}"),
        }
    }

    /// Runs it on a peer for some time, in this process.
    pub fn run(self, peer: Peer, time: Duration) -> Rate {
        match (peer, self) {
            (Peer::Loom, Subject::FastFault(vcpus, writes)) => {
                crate::on_loom::run(FastFault::new(vcpus, writes), time)
            }
            (Peer::Loom, Subject::LastZero(n)) => crate::on_loom::run(LastZero(n), time),
            (Peer::Shuttle, Subject::FastFault(vcpus, writes)) => {
                crate::on_shuttle::run(FastFault::new(vcpus, writes), time)
            }
            (Peer::Shuttle, Subject::LastZero(n)) => crate::on_shuttle::run(LastZero(n), time),
        }
    }
}

/// A checker that kvmmu is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// loom 0.7, without a bound.
    Loom,
    /// shuttle 0.9.9, depth-first.
    Shuttle,
}

impl Peer {
    /// What it is called on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Peer::Loom => "loom",
            Peer::Shuttle => "shuttle",
        }
    }
}

/// What a peer did.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Executions.
    pub executions: u64,
    /// In this time.
    pub seconds: f64,
    /// True if there were no more.
    pub complete: bool,
}

impl Rate {
    /// Executions in a second.
    pub fn per_second(&self) -> f64 {
        self.executions as f64 / self.seconds
    }
}

/// What a peer did that keeps states.
#[derive(Clone, Copy, Debug)]
pub struct States {
    /// How many states it told apart.
    pub unique: u64,
    /// In this time.
    pub seconds: f64,
}

/// Runs this command again, with the arguments `peer NAME PROGRAM MILLISECONDS`. `None`: the peer
/// cannot run the program.
///
/// # Panics If the command cannot be started.
pub fn measure(peer: Peer, subject: Subject, time: Duration) -> Option<Rate> {
    let this = std::env::current_exe().expect("the running command has a path");
    let output = Command::new(this)
        .args(["peer", peer.name(), &subject.name(), &time.as_millis().to_string()])
        .output()
        .expect("the running command can be started again");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    Some(Rate {
        executions: words.next()?.parse().ok()?,
        seconds: words.next()?.parse().ok()?,
        complete: words.next()? == "complete",
    })
}

/// The other end of [`measure`]: true if the arguments were for it.
pub fn answer(arguments: &[String]) -> bool {
    let [command, peer, subject, milliseconds] = arguments else { return false };
    let peer = [Peer::Loom, Peer::Shuttle].into_iter().find(|p| p.name() == peer);
    let subject = Subject::ALL.into_iter().find(|s| s.name() == *subject);
    let (Some(peer), Some(subject), Ok(milliseconds)) = (peer, subject, milliseconds.parse())
    else {
        return false;
    };
    if command != "peer" {
        return false;
    }
    let rate = subject.run(peer, Duration::from_millis(milliseconds));
    let end = if rate.complete { "complete" } else { "cut" };
    println!("{} {:.6} {end}", rate.executions, rate.seconds);
    true
}

/// What a peer does not have: no small program needs it.
#[derive(Clone, Copy, Debug)]
pub enum Absent {}

impl<T: Guarded> RwLock<T> for Absent {
    type Read<'a> = Box<T>;
    type Write<'a> = Box<T>;
    fn read(&self) -> Box<T> {
        match *self {}
    }
    fn write(&self) -> Box<T> {
        match *self {}
    }
}

impl Srcu for Absent {
    type Section<'a> = Absent;
    fn read_lock(&self) -> Absent {
        *self
    }
    fn synchronize(&self) {
        match *self {}
    }
}

impl Rcu for Absent {
    type Section<'a> = Absent;
    fn read_lock(&self) -> Absent {
        *self
    }
    fn synchronize(&self) {
        match *self {}
    }
    fn call(&self, _callback: u64) {
        match *self {}
    }
    fn wait_ripe(&self) -> Option<u64> {
        match *self {}
    }
    fn close(&self) {
        match *self {}
    }
}

/// Implements [`kvmmu_model::Platform`] on the primitives of a peer: what the small programs need,
/// and nothing more.
macro_rules! platform {
    ($machine:ident, $peer:ident) => {
        use kvmmu_model::arm64::{Dsb, TlbiScope};
        use kvmmu_model::{
            CpuId, CpuMask, Guarded, Lock, LockId, Ordering, Platform, Tag, Until, Word,
        };
        use $crate::peer::Absent;
        use $peer::sync::atomic::AtomicU64;
        use $peer::sync::{Mutex, MutexGuard};

        /// The machine.
        #[derive(Clone, Copy, Debug)]
        pub struct $machine;

        /// A word.
        #[derive(Debug)]
        pub struct PeerWord(AtomicU64);

        /// A lock.
        #[derive(Debug)]
        pub struct PeerLock<T>(Mutex<T>);

        impl Word for PeerWord {
            fn load(&self, order: Ordering) -> u64 {
                self.0.load(order)
            }
            fn store(&self, value: u64, order: Ordering) {
                self.0.store(value, order);
            }
            fn swap(&self, value: u64, order: Ordering) -> u64 {
                self.0.swap(value, order)
            }
            fn compare_exchange(
                &self,
                current: u64,
                new: u64,
                success: Ordering,
                failure: Ordering,
            ) -> Result<u64, u64> {
                self.0.compare_exchange(current, new, success, failure)
            }
            fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
                self.0.fetch_or(bits, order)
            }
            fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
                self.0.fetch_and(bits, order)
            }
            fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
                self.0.fetch_add(value, order)
            }
            fn wait_until(&self, _until: Until) -> u64 {
                panic!("no small program waits")
            }
        }

        impl<T: Guarded> Lock<T> for PeerLock<T> {
            type Guard<'a> = MutexGuard<'a, T>;
            fn lock(&self) -> MutexGuard<'_, T> {
                self.0.lock().expect("no thread panics with the lock")
            }
        }

        impl Platform for $machine {
            type Word = PeerWord;
            type Lock<T: Guarded> = PeerLock<T>;
            type Local = std::sync::atomic::AtomicU64;
            type RwLock<T: Guarded> = Absent;
            type Srcu = Absent;
            type Rcu = Absent;
            fn word(&self, _tag: Tag, init: u64) -> PeerWord {
                PeerWord(AtomicU64::new(init))
            }
            fn lock<T: Guarded>(&self, _id: LockId, init: T) -> PeerLock<T> {
                PeerLock(Mutex::new(init))
            }
            fn local(&self, init: u64) -> std::sync::atomic::AtomicU64 {
                std::sync::atomic::AtomicU64::new(init)
            }
            fn rw_lock<T: Guarded>(&self, _id: LockId, _init: T) -> Absent {
                panic!("no small program has readers")
            }
            fn srcu(&self, _id: LockId) -> Absent {
                panic!("no small program has readers")
            }
            fn rcu(&self, _id: LockId) -> Absent {
                panic!("no small program has readers")
            }
            fn fence(&self, order: Ordering) {
                $peer::sync::atomic::fence(order);
            }
            fn local_irq_disable(&self, _cpu: CpuId) {
                panic!("no small program has interrupts")
            }
            fn local_irq_enable(&self, _cpu: CpuId) {
                panic!("no small program has interrupts")
            }
            fn smp_call_function_many(&self, _me: Option<CpuId>, _targets: CpuMask, _wait: bool) {
                panic!("no small program has interrupts")
            }
            fn tlbi(&self, _scope: TlbiScope) {
                panic!("no small program has TLBs")
            }
            fn dsb(&self, _dsb: Dsb) {
                panic!("no small program has TLBs")
            }
        }

        /// Runs a program once: its threads, and then the check of its end.
        fn execute<M: kvmmu_sim::mini::Mini>(mini: &M)
        where
            M::On<$machine>: Send + Sync + 'static,
        {
            use kvmmu_sim::mini::OnMachine;
            let on = $peer::sync::Arc::new(mini.on(&$machine));
            let spawn = |thread| {
                let on = on.clone();
                $peer::thread::spawn(move || on.run(thread))
            };
            let threads: Vec<_> = (0..mini.threads().len()).map(spawn).collect();
            for thread in threads {
                thread.join().expect("no thread panics");
            }
            assert_eq!(on.wrong(), None);
        }
    };
}
pub(crate) use platform;
