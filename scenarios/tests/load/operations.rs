//! The text of an operation is what its reader takes.

use kvmmu_model::LockClass;
use kvmmu_scenarios::loader::{LoadError, load};
use kvmmu_scenarios::ops::{LockRef, VERBS, Verb};

/// The threads, and whether they reach memory by guest page tables.
const THREADS: [(&str, bool); 4] =
    [("vcpu0", false), ("vcpu1", true), ("host", false), ("user", false)];

/// Reads `run` as the program of `thread`, and writes it again.
fn through_the_loader(thread: &str, run: &str) -> Result<String, LoadError> {
    let mut text =
        String::from(if run.contains("access-apic") { "apic-page = \"gfn0\"\n" } else { "" });
    text.push_str(
        "title = \"t\"\nsource = \"s\"\nabout = \"a\"\npaging = \"direct\"\nspte = \"npt\"\n\
         host.pages = 7\n[[slot]]\ngfn = 0\npages = 6\n\
         [guest]\nroot = \"gfn4\"\ngfn4 = [\"gfn3 w\"]\ngfn3 = [\"gfn0 w\", \"gfn1\", \"-\"]\n",
    );
    if run.contains("split-huge") {
        text = text.replace("host.pages = 7", "host = { pages = 7, huge = [\"gfn0\"] }");
    }
    for (name, shadow) in THREADS {
        // Who closes the other VM waits for its worker.
        let other = match name == "host" && (run.contains("close-vm") || run.contains("rmmod")) {
            true => "\"async-pf\"",
            false => "\"lock kvm_lock\"",
        };
        let run = if name == thread { run } else { other };
        text += &format!("[[thread]]\nname = \"{name}\"\nrun = [{run}]\n");
        text += if shadow { "paging = \"shadow\"\n" } else { "" };
    }
    text += "[check]\n";
    let scenario = load("f.toml", &text, 1)?;
    let program = scenario.threads.iter().find(|t| t.name == thread).expect("it is there");
    Ok(program.run.to_string())
}

/// Texts of an argument of this form.
fn arguments(form: &str) -> Vec<String> {
    if form == "LOCK" {
        let lock = |class: &LockClass| LockRef { class: *class, index: 0 }.to_string();
        let second = LockRef { class: LockClass::VcpuMutex, index: 1 };
        return LockClass::ALL.iter().map(lock).chain([second.to_string()]).collect();
    }
    let number =
        |form: &str, n: u8, i: u8| form.replace('N', &n.to_string()).replace('I', &i.to_string());
    let each = form.split('|').flat_map(|form| (0..7).map(move |n| (form, n)));
    each.flat_map(|(form, n)| [number(form, n, 0), number(form, n, 2)]).collect()
}

/// Texts of a verb with its arguments.
fn texts(verb: &Verb) -> Vec<String> {
    let mut texts = vec![verb.name.to_owned()];
    for form in verb.arguments {
        let with = |text: &String| {
            let text = text.clone();
            arguments(form).into_iter().map(move |argument| format!("{text} {argument}"))
        };
        texts = texts.iter().flat_map(with).collect();
    }
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// Goal: reports show operations as files have them. Method: each verb with all arguments in each
/// thread; what the loader takes is written as it was read.
#[test]
fn every_operation_is_written_as_it_was_read() {
    for verb in VERBS {
        let mut taken = 0;
        for text in texts(verb) {
            for (thread, _) in THREADS {
                // What is given back was taken before, and what is made was not there.
                let run = if let Some((how, lock)) = text.split_once("unlock ") {
                    format!("\"{how}lock {lock}\", \"{text}\"")
                } else if let Some(slot) = text.strip_prefix("create-memslot ") {
                    format!("\"delete-memslot {slot}\", \"{text}\"")
                } else {
                    format!("\"{text}\"")
                };
                if let Ok(written) = through_the_loader(thread, &run) {
                    assert_eq!(written, run.replace('"', ""));
                    taken += 1;
                }
            }
        }
        // Of arm64 alone: its own tests have them.
        let of_arm64 =
            ["mmap-small", "rcu-callbacks", "move-to", "new-vm", "release-vm"].contains(&verb.name);
        assert!(taken > 0 || of_arm64, "{}: no argument of all those was right", verb.name);
    }
}

/// Goal: the same for choices.
#[test]
fn a_choice_is_written_with_its_operations() {
    let run = "\"age gfn0\", [\"shrink\", \"change-pte gfn0 pfn6\"], \"synchronize srcu\"";
    let written = "age gfn0, one of (shrink | change-pte gfn0 pfn6), synchronize srcu";
    assert_eq!(through_the_loader("user", run), Ok(written.to_owned()));
}
