//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Builds the EL2 image, boots it in QEMU and returns its verdict.
///
/// Exit codes: 0 as expected, 1 unexpected, 2 usage or something is not installed, 3 time limit, 4
/// nothing selected, 5 another version of QEMU is needed, 70 internal, 130 Ctrl-C.
#[derive(Parser, Clone, Debug)]
#[command(name = "hw", bin_name = "cargo hw", version)]
pub(crate) struct Args {
    /// What to run
    #[arg(value_enum, default_value_t = Job::Suite)]
    pub(crate) job: Job,
    /// One scenario; `list` names them
    #[arg(long, value_name = "NAME")]
    pub(crate) scenario: Option<String>,
    /// Take these guards away (`kvmmu guards` lists them)
    #[arg(long, value_name = "GUARD,..")]
    pub(crate) without: Option<String>,
    /// Boot by U-Boot's `booti` instead of QEMU's `-kernel`
    #[arg(long)]
    pub(crate) u_boot: bool,
    /// The U-Boot
    #[arg(long, value_name = "FILE", default_value = "/usr/lib/u-boot/qemu_arm64/u-boot.bin")]
    pub(crate) u_boot_bin: PathBuf,
    /// CPUs of the machine: four vCPUs and the host
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u8).range(2..=8))]
    pub(crate) cores: u8,
    /// The type of the cores
    #[arg(long, value_name = "NAME", default_value = "cortex-a76")]
    pub(crate) cpu: String,
    /// Whose MMU: x86, arm64 or all
    #[arg(long, value_name = "MMU")]
    pub(crate) mmu: Option<String>,
    /// Whether a broadcast TLBI is done twice: auto (where a core has an erratum), yes or no
    #[arg(long, value_name = "WHEN")]
    pub(crate) repeat: Option<String>,
    /// What a flush of TLBs is made of (x86): none, ipa, page or vm
    #[arg(long, value_name = "KIND")]
    pub(crate) tlbi: Option<String>,
    /// How often each scenario runs
    #[arg(long, value_name = "N")]
    pub(crate) runs: Option<u32>,
    /// Stores of each vCPU in a stress run
    #[arg(long, value_name = "N")]
    pub(crate) stores: Option<u64>,
    /// Where random numbers start
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Write the outcomes of scenarios there, for `kvmmu outcomes --compare`
    #[arg(long, value_name = "FILE")]
    pub(crate) outcomes: Option<PathBuf>,
    /// Write the figures of `bench` there, as lines of JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) figures: Option<PathBuf>,
    /// Where `image` writes the image [default: kvmmu-hw.img]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Seconds after which the run is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) limit: u64,
    /// More words for the image's command line
    #[arg(last = true)]
    pub(crate) more: Vec<String>,
}

/// What to run.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Job {
    /// Tests, stress and scenarios
    Suite,
    /// The suite and the benchmarks
    All,
    /// The deterministic tests
    Tests,
    /// Stress with the migration oracle
    Stress,
    /// The scenario files that fit
    Scenarios,
    /// Benchmarks (an emulator's figures are no performance claim)
    Bench,
    /// What scenarios there are
    List,
    /// Only write the image to a file
    Image,
}

impl Args {
    /// The image's command line.
    pub(crate) fn boot_arguments(&self) -> String {
        let mut words = Vec::new();
        let job = match self.job {
            Job::Suite => "suite",
            Job::All => "all",
            Job::Tests => "tests",
            Job::Stress => "stress",
            Job::Scenarios => "scenarios",
            Job::Bench => "bench",
            Job::List | Job::Image => "list",
        };
        words.push(job.to_owned());
        let mut word = |name: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("{name}={value}")));
        };
        word("scenario", self.scenario.clone());
        word("without", self.without.clone());
        word("mmu", self.mmu.clone());
        word("repeat", self.repeat.clone());
        word("tlbi", self.tlbi.clone());
        word("runs", self.runs.map(|n| n.to_string()));
        word("stores", self.stores.map(|n| n.to_string()));
        word("seed", self.seed.map(|n| n.to_string()));
        words.extend(self.more.iter().cloned());
        words.join(" ")
    }
}
