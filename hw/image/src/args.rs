//! The boot arguments: words of the kernel command line.
//!
//! The same text serves `cargo hw`, U-Boot's `bootargs` and QEMU's `-append`. Anything that is not
//! understood is an error: a run that was not the one that was asked for proves nothing.

use core::fmt;

/// What may be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Job {
    /// All but the benchmarks.
    Suite,
    /// The suite and the benchmarks: one boot of a board.
    All,
    /// The deterministic tests.
    Tests,
    /// Stress with the migration oracle.
    Stress,
    /// Scenario files.
    Scenarios,
    /// Benchmarks.
    Bench,
    /// What there is.
    List,
}

/// Which cores vCPUs run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cluster {
    /// Every core.
    All,
    /// Cortex-A55.
    A55,
    /// Cortex-A76.
    A76,
}

/// Whose MMU is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mmu {
    /// Both.
    All,
    /// That of x86, with its fast page fault.
    X86,
    /// That of arm64.
    Arm64,
}

/// Whether a broadcast TLBI is done twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repeat {
    /// Where a core has an erratum that asks for it.
    Auto,
    /// Always.
    Yes,
    /// Never: as Linux before it worked around the errata.
    No,
}

/// What a flush of TLBs is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Tlbi {
    /// Nothing.
    None,
    /// `IPAS2E1IS` for each page, and no more.
    Ipa,
    /// `IPAS2E1IS` for each page, then `VMALLE1IS`: what Linux does for a page.
    Page,
    /// `VMALLS12E1IS`: what Linux does for a VM.
    Vm,
}

impl Tlbi {
    /// Every kind, in the order of their numbers.
    pub(crate) const ALL: [Tlbi; 4] = [Tlbi::None, Tlbi::Ipa, Tlbi::Page, Tlbi::Vm];

    /// As boot arguments and reports name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Tlbi::None => "none",
            Tlbi::Ipa => "ipa",
            Tlbi::Page => "page",
            Tlbi::Vm => "vm",
        }
    }
}

/// The arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Args<'a> {
    /// What to run.
    pub(crate) job: Job,
    /// Guards that are removed, separated by commas.
    pub(crate) without: &'a str,
    /// One scenario; else all that fit.
    pub(crate) scenario: Option<&'a str>,
    /// Which cores vCPUs run on.
    pub(crate) cluster: Cluster,
    /// How many CPUs are used at most.
    pub(crate) cpus: usize,
    /// Whose MMU is run.
    pub(crate) mmu: Mmu,
    /// What a flush is made of; the default is what Linux does.
    pub(crate) tlbi: Tlbi,
    /// Whether a broadcast TLBI is done twice.
    pub(crate) repeat: Repeat,
    /// How many times a scenario runs, each way.
    pub(crate) runs: u32,
    /// Stores of each vCPU in a stress run.
    pub(crate) stores: u64,
    /// Where random numbers start.
    pub(crate) seed: u64,
}

/// A word that was not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unknown<'a> {
    word: &'a str,
    expected: &'static str,
}

const WORDS: &str = "suite, all, tests, stress, scenarios, bench, list, scenario=NAME, \
                     without=GUARD,.., mmu=, cluster=, cpus=, tlbi=, repeat=, runs=, stores=, \
                     seed=";

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot argument '{}': expected {}", self.word, self.expected)
    }
}

/// The most CPUs that the image uses.
pub(crate) const CPUS_MAX: usize = 8;

impl<'a> Args<'a> {
    /// What no argument at all means.
    const DEFAULT: Args<'static> = Args {
        job: Job::Suite,
        without: "",
        scenario: None,
        cluster: Cluster::All,
        cpus: CPUS_MAX,
        mmu: Mmu::All,
        tlbi: Tlbi::Vm,
        repeat: Repeat::Auto,
        runs: 10,
        stores: 1_000_000,
        seed: 1,
    };

    /// Reads the command line.
    ///
    /// # Errors
    /// The first word that is not understood.
    pub(crate) fn parse(line: &'a str) -> Result<Args<'a>, Unknown<'a>> {
        let mut args: Args<'a> = Args::DEFAULT;
        for word in line.split_ascii_whitespace() {
            let unknown = |expected| Err(Unknown { word, expected });
            match word.split_once('=') {
                None => match job(word) {
                    Some(job) => args.job = job,
                    None => return unknown(WORDS),
                },
                Some(("without", guards)) => args.without = guards,
                Some(("scenario", name)) => args.scenario = Some(name),
                Some(("mmu", "all")) => args.mmu = Mmu::All,
                Some(("mmu", "x86")) => args.mmu = Mmu::X86,
                Some(("mmu", "arm64")) => args.mmu = Mmu::Arm64,
                Some(("mmu", _)) => return unknown("mmu=x86, arm64 or all"),
                Some(("repeat", "auto")) => args.repeat = Repeat::Auto,
                Some(("repeat", "yes")) => args.repeat = Repeat::Yes,
                Some(("repeat", "no")) => args.repeat = Repeat::No,
                Some(("repeat", _)) => return unknown("repeat=auto, yes or no"),
                Some(("cluster", "all")) => args.cluster = Cluster::All,
                Some(("cluster", "a55")) => args.cluster = Cluster::A55,
                Some(("cluster", "a76")) => args.cluster = Cluster::A76,
                Some(("cluster", _)) => return unknown("cluster=a55, a76 or all"),
                Some(("tlbi", name)) => match Tlbi::ALL.iter().find(|kind| kind.name() == name) {
                    Some(kind) => args.tlbi = *kind,
                    None => return unknown("tlbi=none, ipa, page or vm"),
                },
                Some(("cpus", n)) => match n.parse() {
                    Ok(n) if (2..=CPUS_MAX).contains(&n) => args.cpus = n,
                    _ => return unknown("cpus=2 to 8"),
                },
                Some(("runs", n)) => match n.parse() {
                    Ok(n) if n > 0 => args.runs = n,
                    _ => return unknown("runs= and a number above 0"),
                },
                Some(("stores", n)) => match n.parse() {
                    Ok(n) if n > 0 => args.stores = n,
                    _ => return unknown("stores= and a number above 0"),
                },
                Some(("seed", n)) => match n.parse() {
                    Ok(n) => args.seed = n,
                    Err(_) => return unknown("seed= and a number"),
                },
                Some(_) => return unknown(WORDS),
            }
        }
        match (args.scenario, args.job) {
            (None, _) | (Some(_), Job::Scenarios) => {}
            (Some(_), Job::Suite | Job::All) => args.job = Job::Scenarios,
            (Some(word), _) => {
                return Err(Unknown { word, expected: "scenario= with 'scenarios' alone" });
            }
        }
        Ok(args)
    }
}

fn job(word: &str) -> Option<Job> {
    Some(match word {
        "suite" => Job::Suite,
        "all" => Job::All,
        "tests" => Job::Tests,
        "stress" => Job::Stress,
        "scenarios" => Job::Scenarios,
        "bench" => Job::Bench,
        "list" => Job::List,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_means_the_suite() {
        assert_eq!(Args::parse(" \t"), Ok(Args::DEFAULT));
    }

    #[test]
    fn every_word_is_understood() {
        let args = Args::parse(
            "stress without=a,b cluster=a76 tlbi=ipa cpus=3 runs=7 stores=9 seed=5 \
                         mmu=arm64 repeat=no",
        );
        let expected = Args {
            job: Job::Stress,
            without: "a,b",
            cluster: Cluster::A76,
            mmu: Mmu::Arm64,
            tlbi: Tlbi::Ipa,
            repeat: Repeat::No,
            cpus: 3,
            runs: 7,
            stores: 9,
            seed: 5,
            ..Args::DEFAULT
        };
        assert_eq!(args, Ok(expected));
        let args = Args::parse("scenario=aba-direct").unwrap();
        assert_eq!((args.job, args.scenario), (Job::Scenarios, Some("aba-direct")));
    }

    #[test]
    fn what_is_not_understood_is_named_with_what_was_expected() {
        for (line, message) in [
            ("quiet", "boot argument 'quiet': expected suite, all, tests"),
            ("tests cluster=a78", "boot argument 'cluster=a78': expected cluster=a55, a76 or all"),
            ("mmu=tdp", "boot argument 'mmu=tdp': expected mmu=x86, arm64 or all"),
            ("repeat=2", "boot argument 'repeat=2': expected repeat=auto, yes or no"),
            ("bench scenario=a", "boot argument 'a': expected scenario= with 'scenarios' alone"),
            ("cpus=1", "boot argument 'cpus=1': expected cpus=2 to 8"),
            ("runs=0", "boot argument 'runs=0': expected runs= and a number above 0"),
            ("stores=x", "boot argument 'stores=x': expected stores= and a number above 0"),
            ("seed=-1", "boot argument 'seed=-1': expected seed= and a number"),
            ("tlbi=all", "boot argument 'tlbi=all': expected tlbi=none, ipa, page or vm"),
            ("root=/dev/vda", "boot argument 'root=/dev/vda': expected suite"),
        ] {
            let said = Args::parse(line).unwrap_err().to_string();
            assert!(said.starts_with(message), "{said}");
        }
    }
}
