//! What the host does to guest memory while guests run.
//!
//! Each event makes the host's memory manager call KVM's notifiers, or has KVM throw its tables
//! away. None of them may lose a page.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvmmu_qemu::Failure;
use rustix::mm::Advice;

use crate::guest::DATA;
use crate::memory::{Backing, Memory, PAGE};
use crate::sys::{self, Slots};
use crate::trace::{Marker, Phase};
use crate::vm::{SPARE_SLOT, Vm, failed_io};

/// Something that the host does.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// madvise(MADV_DONTNEED) of shared memory: unmaps every page, the contents stay in the page
    /// cache.
    Madvise,
    /// fork: private memory is write-protected, and copied at the next store.
    Fork,
    /// Same-page merging: pages with the same contents become one read-only page.
    Ksm,
    /// mprotect to read-only and back: stores fail meanwhile, and are tried again.
    Mprotect,
    /// A memslot comes, moves and goes: x86 throws all tables away.
    Slots,
    /// Dirty logging of the data slot goes off and on.
    Relog,
}

impl Event {
    /// All of them.
    pub const ALL: &'static [Event] =
        &[Event::Madvise, Event::Fork, Event::Ksm, Event::Mprotect, Event::Slots, Event::Relog];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Event::Madvise => "madvise",
            Event::Fork => "fork",
            Event::Ksm => "ksm",
            Event::Mprotect => "mprotect",
            Event::Slots => "slots",
            Event::Relog => "relog",
        }
    }

    /// The memory that it needs; `None`: either.
    pub fn backing(self) -> Option<Backing> {
        match self {
            Event::Madvise => Some(Backing::Shared),
            Event::Fork | Event::Ksm => Some(Backing::Private),
            Event::Mprotect | Event::Slots | Event::Relog => None,
        }
    }
}

/// How long a forked child lives.
const CHILD_LIVES: Duration = Duration::from_millis(1);
/// Pages of the slot that comes and goes.
const SPARE_PAGES: usize = 16;
/// Where same-page merging is switched.
const KSM: &str = "/sys/kernel/mm/ksm";

/// The thread that does it.
#[derive(Debug)]
pub struct Host {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

impl Host {
    /// Starts a thread that does `event` every `period`. [`Event::Relog`] is the harvester's own.
    ///
    /// # Errors
    ///
    /// When this system does not have it.
    pub fn start(event: Event, vm: &Vm, period: Duration, marker: Marker) -> Result<Host, Failure> {
        let mut actor = Actor {
            event,
            slots: Arc::clone(&vm.slots),
            data: vm.data.clone(),
            spare: Memory::new(SPARE_PAGES, Backing::Shared)
                .map_err(|error| failed_io("mmap", &error))?,
            marker,
        };
        actor.prepare()?;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = thread::spawn(move || {
            // ORDERING: Relaxed. A flag and a counter: nothing else is published with them.
            while !stopped.load(Ordering::Relaxed) {
                actor.act()?;
                count.fetch_add(1, Ordering::Relaxed);
                thread::sleep(period);
            }
            Ok(())
        });
        Ok(Host { stop, done, thread: Some(thread) })
    }

    /// Stops it; returns how often the event was.
    ///
    /// # Errors
    ///
    /// When an event failed.
    pub fn finish(mut self) -> Result<u64, Failure> {
        self.stop().unwrap_or(Ok(()))?;
        // ORDERING: Relaxed. Joining the thread orders the count.
        Ok(self.done.load(Ordering::Relaxed))
    }

    /// Ends the thread; `None`: it has ended before.
    fn stop(&mut self) -> Option<Result<(), Failure>> {
        // ORDERING: Relaxed, as above.
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take()?.join();
        Some(ended.unwrap_or_else(|_| Err(Failure::internal("the host's thread panicked"))))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// What the thread has.
struct Actor {
    event: Event,
    slots: Arc<Slots>,
    data: Memory,
    spare: Memory,
    marker: Marker,
}

impl Actor {
    fn prepare(&self) -> Result<(), Failure> {
        if self.event != Event::Ksm {
            return Ok(());
        }
        let all = 0..self.data.pages();
        self.data
            .advise(all, Advice::LinuxMergeable)
            .map_err(|error| failed_io("madvise(MADV_MERGEABLE)", &error))?;
        for (file, value) in [("pages_to_scan", "2000"), ("sleep_millisecs", "1"), ("run", "1")] {
            fs::write(format!("{KSM}/{file}"), value).map_err(|error| {
                Failure::usage(
                    format!("same-page merging cannot be switched on: {KSM}/{file}: {error}"),
                    "run as root, or leave the event ksm out",
                )
            })?;
        }
        Ok(())
    }

    fn act(&mut self) -> Result<(), Failure> {
        let name = self.event.name();
        let all = 0..self.data.pages();
        match self.event {
            Event::Madvise => {
                self.marker.user(name, Phase::Enter, &[]);
                self.data
                    .advise(all, Advice::LinuxDontNeed)
                    .map_err(|error| failed_io("madvise(MADV_DONTNEED)", &error))?;
            }
            Event::Fork => {
                self.marker.user(name, Phase::Enter, &[]);
                sys::fork_and_reap(CHILD_LIVES).map_err(|error| failed_io("fork", &error))?;
            }
            // The kernel's own thread does it; here it is only written down.
            Event::Ksm => self.marker.user(name, Phase::Enter, &[]),
            Event::Mprotect => {
                self.marker.user(name, Phase::Enter, &[]);
                for writable in [false, true] {
                    self.data
                        .protect(all.clone(), writable)
                        .map_err(|error| failed_io("mprotect", &error))?;
                }
            }
            Event::Slots => self.spare_slot()?,
            Event::Relog => {}
        }
        self.marker.user(name, Phase::Exit, &[]);
        Ok(())
    }

    /// Creates the spare slot, moves it, and deletes it.
    fn spare_slot(&self) -> Result<(), Failure> {
        let beyond = DATA + (self.data.pages() * PAGE) as u64;
        let size = SPARE_PAGES * PAGE;
        for (base, size) in [(beyond, size), (beyond + (4 << 20), size), (beyond, 0)] {
            let fields = [
                ("slot", u64::from(SPARE_SLOT)),
                ("base_gfn", base / PAGE as u64),
                ("pages", (size / PAGE) as u64),
            ];
            self.marker.user("set-memslot", Phase::Enter, &fields);
            self.slots
                .set((SPARE_SLOT, 0), base, self.spare.region(), (0, size))
                .map_err(|error| failed_io("KVM_SET_USER_MEMORY_REGION", &error))?;
            self.marker.user("set-memslot", Phase::Exit, &fields);
        }
        Ok(())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if self.event == Event::Ksm {
            // 2: what was merged is taken apart again.
            let _ = fs::write(format!("{KSM}/run"), "2");
        }
    }
}
