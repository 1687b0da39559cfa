//! Why nothing goes on, as lockdep reports it: what each thread waits for, and what it holds.

use kvmmu_model::Mode;
use kvmmu_sim::event::{Event, What};
use kvmmu_sim::names::Wait;

use super::held::{held, held_words};
use super::phrase::{called, list};
use crate::lab::replayed::Replayed;
use crate::report::trace::object_text;

/// Two or three lines for each thread of a run in which none can go on; none if some can.
pub fn lines(run: &Replayed, threads: &[String]) -> Vec<String> {
    let width = run.waits.iter().map(|w| name(w.thread, threads).len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for wait in &run.waits {
        let who = name(wait.thread, threads);
        lines.push(format!("{who:<width$} waits for {}", wanted(run, wait, threads)));
        lines.push(format!("{:<width$}   at {}:{}{}", "", wait.file, wait.line, inside(run, wait)));
        if let Some(held) = holds(run, wait.thread) {
            lines.push(format!("{:<width$} holds {held}", ""));
        }
    }
    if let Some(cycle) = cycle(run, threads) {
        lines.extend([String::new(), cycle]);
    }
    if !run.waits.is_empty() {
        let retries = run.waits.iter().all(|w| w.object.is_none());
        let title = if retries { " *** LIVELOCK ***" } else { " *** DEADLOCK ***" };
        lines.extend([String::new(), title.to_owned()]);
    }
    lines
}

/// The functions that wait, for the title.
pub fn functions(run: &Replayed) -> Vec<&'static str> {
    run.waits.iter().filter_map(|wait| running(run, wait.thread)).collect()
}

/// The name of a thread.
fn name(thread: u8, threads: &[String]) -> &str {
    threads.get(usize::from(thread)).map_or("stop", String::as_str)
}

/// What a thread waits for, and who is in its way.
fn wanted(run: &Replayed, wait: &Wait, threads: &[String]) -> String {
    let Some(object) = wait.object else { return "a change, before it retries".to_owned() };
    let Some(mode) = wait.mode else {
        return format!("{} to change", object_text(&run.names, run.events.len(), object));
    };
    let what = held_words(run, object, mode);
    let names = |them: &[u8]| {
        let names: Vec<String> = them.iter().map(|t| name(*t, threads).to_owned()).collect();
        (list(&names), if names.len() == 1 { "s" } else { "" })
    };
    let holders = holders(run, wait);
    let (who, s) = names(&holders);
    if mode == Mode::Synchronize && !holders.is_empty() {
        return format!("{what}, which {who} read{s}");
    }
    if !holders.is_empty() {
        let read = holders.iter().all(|t| holds_for_reading(run, *t, wait));
        return format!("{what}, which {who} {}{s}", if read { "read" } else { "hold" });
    }
    let queued = queued(run, wait);
    let (who, s) = names(&queued);
    match queued.is_empty() {
        true => format!("{what}, which nobody holds"),
        false => format!("{what}, behind {who}, who wait{s} to write"),
    }
}

/// The threads that have what is waited for in a way that keeps it from the one that waits.
fn holders(run: &Replayed, wait: &Wait) -> Vec<u8> {
    let (Some(object), Some(mode)) = (wait.object, wait.mode) else { return Vec::new() };
    let mut threads: Vec<u8> = run.events.iter().map(|e| e.thread).collect();
    threads.sort_unstable();
    threads.dedup();
    let blocks = |t: &u8| {
        held(&run.events, *t)
            .iter()
            .any(|h| h.tag == object && !(h.mode == Mode::Read && mode == Mode::Read))
    };
    threads.into_iter().filter(blocks).collect()
}

/// True if `thread` has what is waited for only for reading, as a read-write lock is had.
fn holds_for_reading(run: &Replayed, thread: u8, wait: &Wait) -> bool {
    let held = held(&run.events, thread);
    held.iter().filter(|h| Some(h.tag) == wait.object).all(|h| h.mode == Mode::Read)
}

/// The threads that wait to write before the one that waits to read.
fn queued(run: &Replayed, wait: &Wait) -> Vec<u8> {
    let before = |other: &&Wait| {
        other.object == wait.object
            && other.mode == Some(Mode::Exclusive)
            && wait.mode == Some(Mode::Read)
    };
    run.waits.iter().filter(before).map(|other| other.thread).collect()
}

/// The last event of a thread that is more than the report of what went wrong.
fn last(run: &Replayed, thread: u8) -> Option<&Event> {
    let told = |e: &&Event| e.thread == thread && !matches!(e.what, What::Violation { .. });
    run.events.iter().rev().find(told)
}

/// The function that a thread is in.
fn running(run: &Replayed, thread: u8) -> Option<&'static str> {
    let event = last(run, thread)?;
    match event.what {
        What::Call(name) => Some(name),
        _ => event.stack.last().copied(),
    }
}

/// The function that a thread waits in.
fn inside(run: &Replayed, wait: &Wait) -> String {
    running(run, wait.thread).map_or(String::new(), |f| format!(" in {}", called(f)))
}

/// The locks that a thread holds, and when it took them.
fn holds(run: &Replayed, thread: u8) -> Option<String> {
    let locks = held(&run.events, thread);
    let one = |held: &super::held::Held| {
        let words = held_words(run, held.tag, held.mode);
        match run.events[held.event].step {
            // Before the first step: its thread began with it.
            0 => words,
            step => format!("{words} (step {step})"),
        }
    };
    let locks: Vec<String> = locks.iter().map(one).collect();
    (!locks.is_empty()).then(|| list(&locks))
}

/// `vcpu0 -> user -> vcpu0`: who waits for whom, if it closes.
fn cycle(run: &Replayed, threads: &[String]) -> Option<String> {
    let next = |thread: u8| -> Vec<u8> {
        let Some(wait) = run.waits.iter().find(|w| w.thread == thread) else { return Vec::new() };
        let holders = holders(run, wait);
        if holders.is_empty() { queued(run, wait) } else { holders }
    };
    for wait in &run.waits {
        // Breadth first: the shortest way back to where it began.
        let mut ways = vec![vec![wait.thread]];
        let mut at = 0;
        while at < ways.len() {
            let way = ways[at].clone();
            at += 1;
            for after in next(*way.last()?) {
                if after == wait.thread {
                    let all = way.iter().chain([&after]);
                    let names: Vec<&str> = all.map(|t| name(*t, threads)).collect();
                    return Some(format!("each waits for the next: {}", names.join(" -> ")));
                }
                if !ways.iter().any(|other| other.contains(&after)) {
                    ways.push([way.as_slice(), &[after]].concat());
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use kvmmu_model::{Lock, LockClass, Platform};
    use kvmmu_sim::Actor;
    use kvmmu_sim::program::{Instance, Program};
    use kvmmu_sim::replay::{Replay, replay};
    use kvmmu_sim::rule::Rule;
    use kvmmu_sim::schedule::{Move, Schedule};
    use kvmmu_sim::{Engine, Goal, Sim, SimLock};

    use super::*;
    use crate::report::table::{self, Table};

    /// Two threads that take two locks, each in its own order.
    struct TwoLocks;

    struct Locks(Sim, [SimLock<()>; 2]);

    impl Program for TwoLocks {
        fn threads(&self) -> Vec<String> {
            vec!["vcpu0".to_owned(), "user".to_owned()]
        }
        fn lock_checks(&self) -> bool {
            // Each of them breaks an order before they meet.
            false
        }
        fn build(&self, p: &Sim) -> Box<dyn Instance> {
            let lock = |class: LockClass| p.lock(class.one(), ());
            Box::new(Locks(*p, [lock(LockClass::SlotsLock), lock(LockClass::KvmMutex)]))
        }
    }

    impl Instance for Locks {
        fn run(&self, thread: usize) {
            let names = ["handle_fault", "set_memslot"];
            self.0.call(names[thread], || {
                let _first = self.1[thread].lock();
                let _second = self.1[1 - thread].lock(); // Second.
            });
        }
    }

    #[test]
    fn a_deadlock_says_who_waits_for_what_and_holds_what() {
        let mut engine = Engine::new(&TwoLocks, Goal::ANY);
        let schedule = Schedule(
            [0, 1].map(|thread| Move { actor: Actor::Thread(thread), choice: 0 }).to_vec(),
        );
        let Replay { events, names, waits, violation, asks, .. } =
            replay(&mut engine, &schedule).expect("it fits");
        assert_eq!(violation.expect("it is stuck").rule, Rule::DEADLOCK);
        let run = Replayed { events, names, waits, asks, ..Replayed::default() };
        assert_eq!(functions(&run), ["handle_fault", "set_memslot"]);
        let threads = TwoLocks.threads();
        let table = table::lines(&Table {
            beginning: &["both locks are free".to_owned()],
            heads: ["vcpu0".to_owned(), "user".to_owned()],
            steps: &[],
            left: 0,
            names: &threads,
            oops: "",
            stuck: &lines(&run, &threads),
        });
        assert!(table.iter().all(|line| line.len() == table::WIDTH), "{table:#?}");
        let second = include_str!("stuck.rs").lines().position(|line| line.ends_with("// Second."));
        let place = format!(":{}", second.expect("it is above") + 1);
        let text = table.join("\n").replace(&place, ":111");
        insta::assert_snapshot!(text, @"
        +------------------------------------------------------------------------+
        | At the beginning::                                                     |
        |                                                                        |
        |     both locks are free                                                |
        +------------------------------------+-----------------------------------+
        | vcpu0                              | user                              |
        +------------------------------------+-----------------------------------+
        | OOPS!!!                                                                |
        |                                                                        |
        | ::                                                                     |
        |                                                                        |
        |     vcpu0 waits for kvm->lock, which user holds                        |
        |             at checks/src/report/stuck.rs:111 in handle_fault()        |
        |           holds slots_lock (step 1)                                    |
        |     user  waits for slots_lock, which vcpu0 holds                      |
        |             at checks/src/report/stuck.rs:111 in set_memslot()         |
        |           holds kvm->lock (step 2)                                     |
        |                                                                        |
        |     each waits for the next: vcpu0 -> user -> vcpu0                    |
        |                                                                        |
        |      *** DEADLOCK ***                                                  |
        +------------------------------------------------------------------------+
        ");
    }
}
