//! What a machine says on its serial line: kvmmu-live's JSON lines, among a kernel's messages.

use serde_json::Value;

use crate::modes::MARK;

/// One run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// In which of the boot's modes.
    pub(crate) mode: usize,
    /// Its name.
    pub(crate) name: String,
    /// `ok`, `LOST`, `WRONG`, `caught`, `MISSED`.
    pub(crate) verdict: String,
    /// A negative control.
    pub(crate) control: bool,
    /// Stores of all vCPUs.
    pub(crate) stores: u64,
    /// Pages lost.
    pub(crate) lost: u64,
    /// Rounds of the harvester.
    pub(crate) rounds: u64,
    /// Fast page faults: fixed and spurious; `None`: not counted.
    pub(crate) fast: Option<(u64, u64)>,
}

/// What has been seen.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Watch {
    /// The mode that is being run.
    pub(crate) mode: usize,
    /// Runs, in order.
    pub(crate) runs: Vec<Run>,
    /// What this kernel does not offer: mode, name.
    pub(crate) skipped: Vec<(usize, String)>,
    /// What went wrong: mode, message.
    pub(crate) failures: Vec<(usize, String)>,
    /// Outcomes of scenarios, as lines.
    pub(crate) outcomes: Vec<String>,
    /// The exit code that the machine gave itself, when it was done.
    pub(crate) end: Option<u64>,
    /// What the kernel said before it gave up.
    pub(crate) panic: Option<String>,
}

/// How a kernel begins to say why it gives up, the first of which is the most telling.
const GIVES_UP: &[&str] = &["kernel BUG at ", "BUG: ", "Internal error: ", "Kernel panic - "];

impl Watch {
    /// Takes a line in; true if the machine is done.
    pub(crate) fn take(&mut self, line: &str) -> bool {
        // A kernel's message may stand before the object on the same line.
        let Some(start) = line.find("{\"kvmmu-") else {
            if let Some(at) = GIVES_UP.iter().find_map(|words| line.find(words)) {
                self.panic.get_or_insert_with(|| line[at..].to_owned());
            }
            return false;
        };
        let text = &line[start..];
        if text.starts_with("{\"kvmmu-outcome\"") {
            self.outcomes.push(text.to_owned());
            return false;
        }
        let Ok(value) = serde_json::from_str::<Value>(text) else {
            self.failures.push((self.mode, format!("a line was cut off: {line}")));
            return false;
        };
        let data = &value["data"];
        match value["type"].as_str() {
            Some("job") => self.job(data["job"].as_str().unwrap_or_default()),
            Some("run") => match self.run(data) {
                Some(run) => self.runs.push(run),
                None => self.failures.push((self.mode, format!("a run without numbers: {text}"))),
            },
            Some("vma-size") => match self.vma_size(data) {
                Some(run) => self.runs.push(run),
                None => self.failures.push((self.mode, format!("a run without numbers: {text}"))),
            },
            Some("failure") => {
                let message = data["message"].as_str().unwrap_or("no message").to_owned();
                match data["exit"].as_u64() {
                    Some(4) => self.skipped.push((self.mode, message)),
                    _ => self.failures.push((self.mode, message)),
                }
            }
            Some("end") => self.end = Some(data["exit"].as_u64().unwrap_or(70)),
            _ => {}
        }
        self.end.is_some()
    }

    fn job(&mut self, job: &str) {
        if let Some(mode) = job.strip_prefix(MARK).and_then(|n| n.trim().parse().ok()) {
            self.mode = mode;
        }
    }

    fn vma_size(&self, data: &Value) -> Option<Run> {
        let count = |name: &str| data["outcome"][name].as_u64();
        Some(Run {
            mode: self.mode,
            name: "vma-size".to_owned(),
            verdict: data["verdict"].as_str()?.to_owned(),
            control: false,
            stores: 0,
            lost: count("reached")?,
            rounds: count("rounds")?,
            fast: None,
        })
    }

    fn run(&self, data: &Value) -> Option<Run> {
        let outcome = &data["outcome"];
        let paths = &outcome["paths"];
        let text = |name: &str| data[name].as_str().map(str::to_owned);
        Some(Run {
            mode: self.mode,
            name: text("name")?,
            verdict: text("verdict")?,
            control: !data["broken"].is_null(),
            stores: outcome["stores"].as_u64()?,
            lost: outcome["pages_lost"].as_u64()?,
            rounds: outcome["rounds"].as_u64()?,
            fast: paths["fast_fixed"].as_u64().zip(paths["fast_spurious"].as_u64()),
        })
    }

    /// True if it is not the kernel's fault: to be tried once more.
    pub(crate) fn is_infrastructure(&self) -> bool {
        self.end.is_none() || !self.failures.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "{\"kvmmu-live\":1,\"type\":\"run\",\"data\":{\"name\":\"paged get\",\
        \"broken\":null,\"outcome\":{\"stores\":9,\"pages_lost\":0,\"rounds\":3,\"paths\":\
        {\"fast_fixed\":4,\"fast_spurious\":1}},\"verdict\":\"ok\"}}";

    #[test]
    fn a_machine_that_does_all_is_understood() {
        let mut watch = Watch::default();
        watch.take("[    1.0] a kernel's message");
        assert_eq!(watch.panic, None);
        watch.take("{\"kvmmu-live\":1,\"type\":\"job\",\"data\":{\"job\":\"mode 1\"}}");
        watch.take(&format!("[    1.5] random: {RUN}"));
        watch.take(
            "{\"kvmmu-live\":1,\"type\":\"failure\",\"data\":{\"exit\":4,\"message\":\"no ring\"}}",
        );
        assert!(watch.is_infrastructure(), "it has not ended yet");
        assert!(watch.take("{\"kvmmu-live\":1,\"type\":\"end\",\"data\":{\"exit\":0}}"));
        assert!(!watch.is_infrastructure());
        assert_eq!(watch.runs[0].fast, Some((4, 1)));
        assert_eq!((watch.runs[0].mode, watch.skipped.len()), (1, 1));
    }

    #[test]
    fn a_page_that_a_guest_reached_is_counted() {
        let mut watch = Watch::default();
        watch.take(
            "{\"kvmmu-live\":1,\"type\":\"vma-size\",\"data\":{\"verdict\":\"REACHED\",\
             \"outcome\":{\"rounds\":40,\"reached\":3}}}",
        );
        let run = &watch.runs[0];
        assert_eq!((run.verdict.as_str(), run.lost, run.rounds), ("REACHED", 3, 40));
        watch.take("{\"kvmmu-live\":1,\"type\":\"vma-size\",\"data\":{\"verdict\":\"ok\"}}");
        assert_eq!(watch.failures.len(), 1);
    }

    #[test]
    fn the_first_word_of_a_kernel_that_gives_up_is_kept() {
        let mut watch = Watch::default();
        watch.take("[   34.1] kernel BUG at arch/x86/kvm/mmu/mmu.c:890!");
        watch.take("[   34.2] Kernel panic - not syncing: Fatal exception");
        assert_eq!(watch.panic.unwrap(), "kernel BUG at arch/x86/kvm/mmu/mmu.c:890!");
    }

    #[test]
    fn a_line_that_is_cut_off_is_a_failure() {
        for cut in [20, RUN.len() / 2, RUN.len() - 1] {
            let mut watch = Watch::default();
            watch.take(&RUN[..cut]);
            assert_eq!(watch.failures.len(), 1, "{cut}");
        }
        let mut watch = Watch::default();
        watch.take(&RUN.replace("\"rounds\":3,", ""));
        assert!(watch.runs.is_empty() && watch.is_infrastructure());
    }
}
