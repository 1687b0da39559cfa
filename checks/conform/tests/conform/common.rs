//! Traces made by hand, and what the checker says of them.

use kvmmu_conform::refused::Refused;
use kvmmu_conform::{file, judge, report::Report};

/// The virtual address of physical address 0.
pub(crate) const LINEAR_MAP: u64 = 0xffff_8880_0000_0000;
/// The table that maps frames 0x200..0x400.
pub(crate) const TABLE: u64 = 0x7f000;
/// A role: level 1, direct, everything allowed.
pub(crate) const LEAF_ROLE: u32 = 0x781;

/// A frame that it maps, and the page there.
pub(crate) const GFN: u64 = 0x205;
pub(crate) const PFN: u64 = 0x1234;

/// The bits of one kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) kernel: &'static str,
    pub(crate) format: &'static str,
    /// P U, and what says shadow-present.
    present: u64,
    host: u64,
    mmu: u64,
    /// `RET_PF_INVALID`.
    invalid: u64,
}

/// Linux 5.10 on AMD.
pub(crate) const V5_10: Layout = Layout {
    kernel: "5.10.223-test",
    format: "npt-v5.10",
    present: 0b101,
    host: 1 << 10,
    mmu: 1 << 11,
    invalid: 2,
};

/// Linux 6.1 on AMD.
pub(crate) const V6_1: Layout = Layout {
    kernel: "6.1.0-test",
    format: "npt-v6.1",
    present: 0b101 | 1 << 11,
    host: 1 << 9,
    mmu: 1 << 10,
    invalid: 3,
};

impl Layout {
    /// An SPTE with these letters of `HMWAD`.
    pub(crate) fn spte(self, pfn: u64, letters: &str) -> u64 {
        let bit = |letter| match letter {
            'H' => self.host,
            'M' => self.mmu,
            'W' => 1 << 1,
            'A' => 1 << 5,
            'D' => 1 << 6,
            _ => panic!("no bit is called {letter}"),
        };
        letters.chars().map(bit).fold(pfn << 12 | self.present, |bits, bit| bits | bit)
    }
}

/// Lines of a trace.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) layout: Layout,
    pub(crate) lines: Vec<String>,
    /// The slot is logged from the beginning.
    pub(crate) logged: bool,
    /// How the guest's memory is translated: `direct`, `none`, `guest`.
    pub(crate) paging: &'static str,
}

impl Script {
    /// A trace without events.
    pub(crate) fn new(layout: Layout) -> Script {
        Script { layout, lines: Vec::new(), logged: true, paging: "direct" }
    }

    /// An event of thread `pid`.
    pub(crate) fn event(&mut self, pid: u32, event: &str, fields: &str) -> &mut Script {
        let comma = if fields.is_empty() { "" } else { "," };
        self.lines.push(format!(r#"{{"pid":{pid},"event":"{event}"{comma}{fields}}}"#));
        self
    }

    /// A fault of frame `gfn` begins on vCPU `cpu`.
    pub(crate) fn fault(&mut self, cpu: u32, gfn: u64, error: u64) -> &mut Script {
        let fields = format!(r#""fault_address":"{:#x}","error_code":"{error:#x}""#, gfn << 12);
        self.event(cpu, "kvm_page_fault", &fields)
    }

    /// The shadow page that has [`TABLE`].
    pub(crate) fn page(&mut self, cpu: u32, created: bool) -> &mut Script {
        let created = u8::from(created);
        let fields =
            format!(r#""mmu_valid_gen":0,"gfn":"0x200","role":{LEAF_ROLE},"created":{created}"#);
        self.event(cpu, "kvm_mmu_get_page", &fields)
    }

    /// That shadow page is zapped.
    pub(crate) fn zap_page(&mut self, pid: u32) -> &mut Script {
        let fields = format!(r#""mmu_valid_gen":0,"gfn":"0x200","role":{LEAF_ROLE}"#);
        self.event(pid, "kvm_mmu_prepare_zap_page", &fields)
    }

    /// `kvm_mmu_set_spte` of a frame in [`TABLE`].
    pub(crate) fn set(&mut self, cpu: u32, gfn: u64, spte: u64) -> &mut Script {
        let sptep = TABLE + (gfn & 511) * 8;
        let fields =
            format!(r#""gfn":"{gfn:#x}","level":1,"sptep":"{sptep:#x}","spte":"{spte:#x}""#);
        self.event(cpu, "kvm_mmu_set_spte", &fields)
    }

    /// `fast_page_fault` of a write, without the `kvm_page_fault` before it.
    pub(crate) fn fast(
        &mut self,
        cpu: u32,
        gfn: u64,
        ret: &str,
        old: u64,
        new: u64,
    ) -> &mut Script {
        let ret = self.layout.invalid
            + match ret {
                "refused" => 0,
                "fixed" => 1,
                _ => 2,
            };
        let sptep = LINEAR_MAP + TABLE + (gfn & 511) * 8;
        let fields = format!(
            "\"vcpu_id\":{cpu},\"cr2_or_gpa\":\"{:#x}\",\"error_code\":\"0x3\",\
             \"sptep\":\"{sptep:#x}\",\"old_spte\":\"{old:#x}\",\
             \"new_spte\":\"{new:#x}\",\"ret\":{ret}",
            gfn << 12
        );
        self.event(cpu, "fast_page_fault", &fields)
    }

    /// A write fault and its fast fault.
    pub(crate) fn fast_fault(
        &mut self,
        cpu: u32,
        gfn: u64,
        ret: &str,
        old: u64,
        new: u64,
    ) -> &mut Script {
        self.fault(cpu, gfn, 3).fast(cpu, gfn, ret, old, new)
    }

    /// What user space does.
    pub(crate) fn user(&mut self, op: &str, phase: &str) -> &mut Script {
        self.event(9, "user", &format!(r#""op":"{op}","phase":"{phase}","slot":0"#))
    }

    /// One whole harvest.
    pub(crate) fn harvest(&mut self) -> &mut Script {
        self.user("get-dirty-log", "enter").user("get-dirty-log", "exit")
    }

    /// The header.
    pub(crate) fn header(&self) -> String {
        format!(
            "{{\"kvmmu-trace\":1,\"kernel\":\"{}\",\"arch\":\"x86-64\",\"format\":\"{}\",\
             \"mode\":{{\"npt\":{},\"tdp_mmu\":0,\"paging\":\"{}\"}},\"vcpus\":64,\
             \"slots\":[{{\"slot\":0,\"base_gfn\":\"0x200\",\"pages\":512,\"log\":{}}},\
             {{\"slot\":7,\"base_gfn\":\"0x100000\",\"pages\":512}}],\"seed\":1}}",
            self.layout.kernel,
            self.layout.format,
            u8::from(self.paging == "direct"),
            self.paging,
            self.logged
        )
    }

    /// The whole file.
    pub(crate) fn text(&self) -> String {
        let mut text = self.header() + "\n";
        for (n, line) in self.lines.iter().enumerate() {
            text += &line.replacen('{', &format!("{{\"n\":{n},"), 1);
            text.push('\n');
        }
        text + &format!("{{\"event\":\"end\",\"events\":{},\"lost\":0}}\n", self.lines.len())
    }

    /// What the checker says of it.
    #[track_caller]
    pub(crate) fn judge(&self) -> Report {
        judge_text(&self.text()).unwrap_or_else(|failure| panic!("{failure}\n{}", self.text()))
    }

    /// Fails unless every event is explained.
    #[track_caller]
    pub(crate) fn is_explained(&self) {
        let report = self.judge();
        assert_eq!(report.unexplained, 0, "{}", report.text());
        assert_eq!(report.checked, self.lines.len());
    }

    /// Fails unless line `line` (of the events, from 1) is the first that is not explained, for a
    /// reason that contains `why`.
    #[track_caller]
    pub(crate) fn is_refused(&self, line: u32, why: &str) {
        let report = self.judge();
        let text = report.text();
        let first = report.first.unwrap_or_else(|| panic!("explained: {text}"));
        assert!(first.line == line + 1 && first.why.contains(why), "not {line} '{why}': {text}");
    }
}

/// A page that was mapped by a write fault of vCPU 0.
pub(crate) fn mapped(layout: Layout) -> Script {
    let mut script = Script::new(layout);
    script.fault(0, GFN, 2).page(0, true).set(0, GFN, layout.spte(PFN, "HMWAD"));
    script
}

/// Many fast faults of one SPTE at the same time, while it may be write-protected any number of
/// times.
pub(crate) fn storm(layout: Layout, threads: u32, ret: &str) -> Script {
    let (off, on) = (layout.spte(PFN, "HMAD"), layout.spte(PFN, "HMWAD"));
    let mut script = mapped(layout);
    script.user("reset-dirty-rings", "enter");
    for cpu in 10..10 + threads {
        script.fault(cpu, GFN, 3);
    }
    for cpu in 10..10 + threads {
        script.fast(cpu, GFN, ret, if ret == "fixed" { off } else { on }, on);
    }
    script
}

/// What the checker says of a file with this text.
pub(crate) fn judge_text(text: &str) -> Result<Report, Refused> {
    judge("trace", &file::read_from(text.as_bytes(), "trace.jsonl")?, true)
}
