//! Scenario files as Rust: the built-in ones that fit, and this package's own.
//!
//! A file fits if all its vCPUs use direct paging, and all its operations are faults, aging, swap,
//! KSM, harvests and the like: what the image has hardware for. The formats of x86 become stage 2:
//! where the file speaks of a dirty bit that is not set, that of hardware A/D. Those of arm64 stay
//! what they are, a scenario for each profile; the names of those with several VMIDs are kept.

use std::fmt::{Debug, Write as _};
use std::path::Path;

use kvmmu_scenarios::Property;
use kvmmu_scenarios::builtin;
use kvmmu_scenarios::loader;
use kvmmu_scenarios::ops::{Address, VcpuOp};
use kvmmu_scenarios::program::{OffVcpu, OnVcpu, Program, Step, Steps};
use kvmmu_scenarios::scenario::{
    Arch, Expect, Format, InitialSpte, Paging, Profile, Scenario, Thread, Witness,
};

/// The most threads that a scenario may have which is run: CPUs that run at once.
const THREADS_MAX: usize = 4;

/// A Rust file with a function that makes them all.
pub(crate) fn scenarios(own: &Path) -> String {
    let mut text = String::from("// Made by build.rs from scenario files.\n");
    let builtin =
        builtin::FILES.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let list = |text: &mut String, name: &str, files: Vec<(String, String)>, is_run: bool| {
        let _ = writeln!(text, "pub(crate) fn {name}() -> Vec<Scenario> {{\nvec![");
        for (file, content) in files {
            let scenario = loader::load(&file, &content, 1).unwrap_or_else(|e| panic!("{e}"));
            let runs = !is_run || scenario.threads.len() <= THREADS_MAX;
            if let Some(expression) = scenario_expression(&scenario).filter(|_| runs) {
                let _ = writeln!(text, "{expression},");
            }
        }
        text.push_str("]\n}\n");
    };
    let builtin: Vec<(String, String)> = builtin.collect();
    let several_vmids = builtin.iter().filter_map(|(file, content)| {
        let scenario = loader::load(file, content, 1).unwrap_or_else(|e| panic!("{e}"));
        scenario.vmid.is_some().then_some(scenario.name)
    });
    let several_vmids: Vec<String> = several_vmids.collect();
    let _ = writeln!(text, "pub(crate) const SEVERAL_VMIDS: &[&str] = &{several_vmids:?};");
    list(&mut text, "builtin", builtin, true);
    list(&mut text, "own", with_profiles(files_in(own)), false);
    text
}

/// Each file as often as it has profiles, by the name of the scenario.
fn with_profiles(files: Vec<(String, String)>) -> Vec<(String, String)> {
    let names =
        |file: &str, text: &str| loader::names(file, text).unwrap_or_else(|e| panic!("{e}"));
    let of = |(file, text): (String, String)| {
        names(&file, &text).into_iter().map(move |name| (name, text.clone()))
    };
    files.into_iter().flat_map(of).collect()
}

fn files_in(directory: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(directory).expect("the package has scenarios of its own");
    let mut files: Vec<(String, String)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.to_owned();
            Some((name, std::fs::read_to_string(&path).ok()?))
        })
        .collect();
    files.sort();
    files
}

/// True if the image has hardware for it.
fn fits(s: &Scenario) -> bool {
    let of_arch = match s.profile.arch() {
        Arch::X86 => {
            s.paging == Paging::Direct
                && !s.pml
                && !s.contends()
                && s.huge.is_empty()
                && s.apic_page.is_none()
                && !s.always.contains(&Property::Accessed)
                && s.threads.iter().all(|t| t.paging == Paging::Direct)
        }
        // There is one VM, with one VMID.
        Arch::Arm64 => s.vmid.is_none(),
    };
    of_arch && s.name != "canary" && s.guest_tables.is_empty()
}

/// `None`: it does not fit.
fn scenario_expression(s: &Scenario) -> Option<String> {
    if !fits(s) {
        return None;
    }
    let keeps_dirty = s.spte.has_ad() && s.map.iter().any(|e| e.writable && !e.dirty);
    let (profile, spte) = match s.profile.arch() {
        Arch::X86 => (Profile::Fixed, if keeps_dirty { Format::Stage2Hd } else { Format::Stage2 }),
        Arch::Arm64 => (s.profile, s.spte),
    };
    let threads: Option<Vec<String>> = s.threads.iter().map(thread).collect();
    let map: Option<Vec<String>> = s.map.iter().map(initial_spte).collect();
    let slots = s.slots.iter().map(|slot| {
        let (base, pages, log) = (slot.base.0, slot.pages, slot.log);
        let there = slot.there;
        format!("Slot {{ base: Gfn({base}), pages: {pages}, log: {log}, there: {there} }}")
    });
    let backing = s.backing.iter().map(|b| {
        let pfn = b.pfn.map_or("None".to_owned(), |pfn| format!("Some(Pfn({}))", pfn.0));
        let (gfn, writable, dirty) = (b.gfn.0, b.writable, b.dirty);
        format!("Backing {{ gfn: Gfn({gfn}), pfn: {pfn}, writable: {writable}, dirty: {dirty} }}")
    });
    Some(format!(
        "Scenario {{ name: {:?}.into(), title: {:?}.into(), source: String::new(), \
         about: String::new(), profile: Profile::{profile:?}, paging: Paging::Direct, \
         spte: Format::{spte:?}, indirect: IndirectFastFault::Gfns, unsync: false, pml: false, \
         apic_page: None, early_completion: {}, vmid: None, slots: {}, host_pages: {}, \
         backing: {}, huge: {}, hugetlb: {}, \
         guest_tables: Vec::new(), guest_root: None, map: {}, locks: Vec::new(), \
         threads: {}, at_stop: {}, always: {}, sometimes: {}, lock_checks: false, \
         expects: {}, size: 1 }}",
        s.name,
        s.title,
        s.early_completion,
        vec_of(slots),
        s.host_pages,
        vec_of(backing),
        vec_of(s.huge.iter().map(|gfn| format!("{gfn:?}"))),
        vec_of(s.hugetlb.iter().map(|gfn| format!("{gfn:?}"))),
        vec_of(map?),
        vec_of(threads?),
        steps(&s.at_stop, other_op)?,
        vec_of(s.always.iter().map(|p| format!("Property::{p:?}"))),
        vec_of(s.sometimes.iter().map(witness)),
        vec_of(s.expects.iter().map(expect)),
    ))
}

fn vec_of(items: impl IntoIterator<Item = String>) -> String {
    format!("vec![{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// An `Option`, its value under this path.
fn option(path: &str, value: Option<impl Debug>) -> String {
    value.map_or("None".to_owned(), |value| format!("Some({path}{value:?})"))
}

fn thread(t: &Thread) -> Option<String> {
    let run = match &t.run {
        Program::Vcpu(run) => format!("Program::Vcpu({})", steps(run, vcpu_op)?),
        Program::Other(run) => format!("Program::Other({})", steps(run, other_op)?),
    };
    Some(format!(
        "Thread {{ name: {:?}.into(), kind: ThreadKind::{:?}, paging: Paging::Direct, \
         run: {run} }}",
        t.name, t.kind,
    ))
}

/// `None`: the image does not run an operation, or it has nobody who chooses.
fn steps<T: Copy>(run: &Steps<T>, op: fn(T) -> Option<String>) -> Option<String> {
    let step = |step: &Step<T>| match step {
        Step::One(one) => Some(format!("Step::One({})", op(*one)?)),
        Step::OneOf(_) => None,
    };
    let steps: Option<Vec<String>> = run.0.iter().map(step).collect();
    Some(format!("Steps({})", vec_of(steps?)))
}

/// `None`: the image does not run it.
fn vcpu_op(op: OnVcpu) -> Option<String> {
    let op = match op {
        OnVcpu::Vcpu(VcpuOp::Read(page)) => format!("Read({})", address(page)?),
        OnVcpu::Vcpu(VcpuOp::Write(page)) => format!("Write({})", address(page)?),
        OnVcpu::Vcpu(VcpuOp::Fetch(page)) => format!("Fetch({})", address(page)?),
        OnVcpu::Vcpu(op @ VcpuOp::Prefault(_)) => format!("{op:?}"),
        OnVcpu::Vcpu(_) | OnVcpu::Lock(_) => return None,
    };
    Some(format!("OnVcpu::Vcpu(VcpuOp::{op})"))
}

/// `None`: the image does not run it. Programs that contend are not here.
fn other_op(op: OffVcpu) -> Option<String> {
    match op {
        OffVcpu::Host(op) => Some(format!("OffVcpu::Host(HostOp::{op:?})")),
        OffVcpu::User(op) => Some(format!("OffVcpu::User(UserOp::{op:?})")),
        OffVcpu::Lock(_) => None,
    }
}

/// `None`: it is an address of guest page tables.
fn address(address: Address) -> Option<String> {
    let Address::Gfn(gfn) = address else { return None };
    Some(format!("Address::Gfn({gfn:?})"))
}

/// `None`: it is an address of guest page tables.
fn initial_spte(e: &InitialSpte) -> Option<String> {
    Some(format!(
        "InitialSpte {{ address: {}, pfn: Pfn({}), host_writable: {}, \
         mmu_writable: {}, writable: {}, accessed: {}, dirty: {}, tracked: {}, cached: {}, \
         large: {} }}",
        address(e.address)?,
        e.pfn.0,
        e.host_writable,
        e.mmu_writable,
        e.writable,
        e.accessed,
        e.dirty,
        e.tracked,
        e.cached,
        e.large
    ))
}

fn witness(w: &Witness) -> String {
    let moments = w.story.0.iter().map(|m| {
        let thread = option("", m.thread);
        format!("Moment {{ mark: Mark::{:?}, thread: {thread} }}", m.mark)
    });
    format!("Witness {{ text: {:?}.into(), story: Story({}) }}", w.text, vec_of(moments))
}

fn expect(e: &Expect) -> String {
    let guards = e.without.iter().map(|guard| format!("Guard::{guard:?}"));
    format!(
        "Expect {{ without: GuardSet::from_iter({}), verdict: Expected::{:?}, property: {}, \
         story: {}, dpor_executions: None, loom: Engine::Skip, shuttle: Engine::Skip, \
         because: {:?}.into() }}",
        format_args!("[{}]", guards.collect::<Vec<_>>().join(", ")),
        e.verdict,
        option("Property::", e.property),
        e.story.as_ref().map_or("None".to_owned(), |w| format!("Some({})", witness(w))),
        e.because,
    )
}
