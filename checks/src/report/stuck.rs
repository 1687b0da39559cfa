//! Why nothing goes on, as lockdep tells it: what each thread waits for, and what it holds.

use kvmmu_model::Tag;
use kvmmu_sim::event::{Event, What};
use kvmmu_sim::names::Wait;

use super::phrase::{called, function, list};
use crate::run::Replayed;
use crate::trace::object_text;

/// Two or three lines for each thread of a run in which none can go on; none if some can.
pub fn lines(run: &Replayed, threads: &[String]) -> Vec<String> {
    let width = run.waits.iter().map(|w| name(w.thread, threads).len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for wait in &run.waits {
        let who = name(wait.thread, threads);
        lines.push(format!("{who:<width$} waits for {}", wanted(run, wait, threads)));
        lines.push(format!("{:<width$}   at {}:{}{}", "", wait.file, wait.line, inside(run, wait)));
        if let Some(held) = held(run, wait.thread) {
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
    let of = |wait: &Wait| last(run, wait.thread).and_then(|e| e.stack.last().copied());
    run.waits.iter().filter_map(of).collect()
}

/// The name of a thread.
fn name(thread: u8, threads: &[String]) -> &str {
    threads.get(usize::from(thread)).map_or("stop", String::as_str)
}

/// What a thread waits for, and who has it.
fn wanted(run: &Replayed, wait: &Wait, threads: &[String]) -> String {
    let Some(object) = wait.object else { return "a change, before it retries".to_owned() };
    let what = object_text(&run.names, run.events.len(), object);
    match owner(run, wait) {
        Some(owner) => format!("{what}, which {} holds", name(owner, threads)),
        None if wait.lock => format!("{what}, which nobody holds"),
        None => format!("{what} to change"),
    }
}

/// The thread that holds the lock that is waited for.
fn owner(run: &Replayed, wait: &Wait) -> Option<u8> {
    let object = wait.object.filter(|_| wait.lock)?;
    let holds = |t: &u8| last(run, *t).is_some_and(|e| e.held.contains(&object));
    let mut owners: Vec<u8> = run.events.iter().map(|e| e.thread).collect();
    owners.sort_unstable();
    owners.dedup();
    owners.into_iter().find(holds)
}

/// The last event of a thread that is more than the report of what went wrong.
fn last(run: &Replayed, thread: u8) -> Option<&Event> {
    let told = |e: &&Event| e.thread == thread && !matches!(e.what, What::Violation { .. });
    run.events.iter().rev().find(told)
}

/// The function that a thread waits in.
fn inside(run: &Replayed, wait: &Wait) -> String {
    let function = last(run, wait.thread).map(|e| function(e, "")).filter(|f| !f.is_empty());
    function.map_or(String::new(), |f| format!(" in {}", called(f)))
}

/// The locks that a thread holds, and when it took them.
fn held(run: &Replayed, thread: u8) -> Option<String> {
    let held = &last(run, thread)?.held;
    let one = |tag: &Tag| {
        let took = |e: &&Event| {
            e.thread == thread && matches!(e.what, What::Acquire { object } if object == *tag)
        };
        let name = object_text(&run.names, run.events.len(), *tag);
        match run.events.iter().rev().find(took) {
            Some(event) => format!("{name} (step {})", event.step),
            None => name,
        }
    };
    let locks: Vec<String> = held.iter().map(one).collect();
    (!locks.is_empty()).then(|| list(&locks))
}

/// `vcpu0 -> user -> vcpu0`: who waits for whom, if it closes.
fn cycle(run: &Replayed, threads: &[String]) -> Option<String> {
    let next = |thread: u8| owner(run, run.waits.iter().find(|w| w.thread == thread)?);
    let mut way = vec![run.waits.first()?.thread];
    loop {
        let after = next(*way.last()?)?;
        if let Some(at) = way.iter().position(|t| *t == after) {
            way.drain(..at);
            way.push(after);
            let names: Vec<&str> = way.iter().map(|t| name(*t, threads)).collect();
            return Some(format!("each waits for the next: {}", names.join(" -> ")));
        }
        way.push(after);
    }
}

#[cfg(test)]
mod tests {
    use kvmmu_model::{Lock, Object, Platform};
    use kvmmu_sim::program::{Instance, Program};
    use kvmmu_sim::replay::{Replay, replay};
    use kvmmu_sim::schedule::{Move, Schedule};
    use kvmmu_sim::{Engine, Goal, Sim, SimLock};

    use super::*;
    use crate::report::table::{self, Table};

    /// The line of the second acquisition.
    const SECOND: u32 = 145;

    /// Two threads that take two locks, each in its own order.
    struct TwoLocks;

    struct Locks(Sim, [SimLock<()>; 2]);

    impl Program for TwoLocks {
        fn threads(&self) -> Vec<String> {
            vec!["vcpu0".to_owned(), "user".to_owned()]
        }
        fn build(&self, p: &Sim) -> Box<dyn Instance> {
            let lock = |object| p.lock(Tag::one(object), ());
            Box::new(Locks(*p, [lock(Object::MmuLock), lock(Object::SlotsLock)]))
        }
    }

    impl Instance for Locks {
        fn run(&self, thread: usize) {
            let names = ["handle_fault", "set_memslot"];
            self.0.call(names[thread], || {
                let _first = self.1[thread].lock();
                let _second = self.1[1 - thread].lock(); // Line SECOND.
            });
        }
    }

    #[test]
    fn a_deadlock_says_who_waits_for_what_and_holds_what() {
        let mut engine = Engine::new(&TwoLocks, Goal::ANY);
        let schedule = Schedule([0, 1].map(|thread| Move { thread, choice: 0 }).to_vec());
        let Replay { events, names, waits, violation, .. } =
            replay(&mut engine, &schedule).expect("it fits");
        assert_eq!(violation.expect("it is stuck").property, "deadlock");
        let run = Replayed { events, names, waits, stuck: None };
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
        let text = table.join("\n").replace(&format!(":{SECOND}"), ":111");
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
        |     vcpu0 waits for slots_lock, which user holds                       |
        |             at checks/src/report/stuck.rs:111 in handle_fault()        |
        |           holds mmu_lock (step 1)                                      |
        |     user  waits for mmu_lock, which vcpu0 holds                        |
        |             at checks/src/report/stuck.rs:111 in set_memslot()         |
        |           holds slots_lock (step 2)                                    |
        |                                                                        |
        |     each waits for the next: vcpu0 -> user -> vcpu0                    |
        |                                                                        |
        |      *** DEADLOCK ***                                                  |
        +------------------------------------------------------------------------+
        ");
    }
}
