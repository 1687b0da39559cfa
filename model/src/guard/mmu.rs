//! The guards of the MMU, and of what it asks of vCPUs and the host.

macro_rules! mmu_guards {
    ($next:ident! { $($before:tt)* }) => {
        $next! {
            $($before)*
            FastFaultDirectOnly {
                name: "fast-fault-direct-only",
                function: "FNAME(page_fault)",
                source: "locking.rst v5.10 section 2 case 1; commit c7ba5b48cc8d",
                since: "3.6",
                prevents: "A fast fault on an indirect shadow page marks a gfn that the SPTE no longer maps.",
                without: "FNAME(page_fault) calls fast_page_fault before its slow path. The gfn to mark is what the scenario's indirect-fast-fault says: sp->gfns[index] read before the cmpxchg (gfns), or the gfn of the fault's own guest walk (walk).",
            }
            FastFaultCmpxchg {
                name: "fast-fault-cmpxchg",
                function: "fast_page_fault",
                source: "locking.rst v5.10 section 2",
                since: "3.6",
                prevents: "A fast fault brings back an SPTE that was zapped or changed since it was read.",
                without: "The new SPTE is written by a plain store.",
            }
            FastFaultHostWritable {
                name: "fast-fault-host-writable",
                function: "fast_page_fault",
                source: "locking.rst v5.10 section 2, SPTE_HOST_WRITEABLE",
                since: "3.6",
                prevents: "A fast fault makes a page writable that the host maps read-only.",
                without: "The fast fault tests MMU-writable alone.",
                masked: Masked {
                    by: "change-pte-clears-mmu-writable",
                    because: "make_spte never sets M without H, and change_pte clears both: M alone says enough, which is all that 6.12 tests. Remove both and the pair fails",
                },
            }
            FastFaultMmuWritable {
                name: "fast-fault-mmu-writable",
                function: "fast_page_fault",
                source: "locking.rst v5.10 section 2, SPTE_MMU_WRITEABLE",
                since: "3.6",
                prevents: "A fast fault makes a shadowed guest page table writable.",
                without: "The fast fault tests host-writable alone.",
            }
            FastFaultRewalk {
                name: "fast-fault-rewalk",
                function: "fast_page_fault",
                source: "commit d162f30a7ceb",
                since: "4.11",
                prevents: "A retry of a fast fault works on a table that has left the tree.",
                without: "The walk is done once, before the first attempt; a retry reads the same SPTE place again.",
                masked: Masked {
                    by: "zapping clears every SPTE of a page before the page can be freed, and the lockless walk section keeps it from being freed",
                    because: "a child that left the tree holds zeroes, so the retry finds a non-present SPTE and takes the slow path",
                },
            }
            MarkDirtyAfterCmpxchg {
                name: "mark-dirty-after-cmpxchg",
                function: "fast_page_fault",
                source: "arch/x86/kvm/mmu/mmu.c",
                since: "3.6",
                prevents: "A harvest between mark and cmpxchg consumes the mark, and the write that follows is not logged.",
                without: "The page is marked dirty before the cmpxchg.",
            }
            MarkDirtyAtomic {
                name: "mark-dirty-atomic",
                function: "mark_page_dirty",
                source: "virt/kvm/kvm_main.c, mark_page_dirty_in_slot()",
                since: "3.5 at the latest",
                prevents: "Two vCPUs mark pages whose bits are in one word, and one of the marks is lost.",
                without: "The bit is set by a load and a plain store of the word.",
            }
            RelaxPermsLocalFlush {
                name: "relax-perms-local-flush",
                function: "kvm_pgtable_stage2_relax_perms",
                source: "commit be097997a273; Arm ARM, TLB maintenance for permission faults",
                since: "5.10",
                prevents: "A CPU that cached the read-only entry faults for ever by it, although the descriptor allows the store by now (arm64; x86 decides a fault by a fresh walk).",
                without: "The fault is repaired in memory and the vCPU's own TLB is left as it is.",
            }
            RestoreMarksDirty {
                name: "restore-marks-dirty",
                function: "fast_page_fault",
                source: "locking.rst v5.10 section 2, Lockless Access Tracking",
                since: "4.11",
                prevents: "A fault that was not a write turns W on without a mark.",
                without: "The page is marked only if the fault was a write.",
                masked: Masked {
                    by: "access-track-drops-w",
                    because: "while W is never saved, only a write fault can turn it on; remove both and the pair fails",
                },
            }
            AccessTrackDropsW {
                name: "access-track-drops-w",
                function: "mark_spte_for_access_track",
                source: "locking.rst v5.10 section 2, Lockless Access Tracking",
                since: "4.11",
                prevents: "A saved W outlives write protection and comes back by a read fault.",
                without: "W is saved beside R and X (bit 55) and restored with them.",
            }
            VolatileLocklesslyWritable {
                name: "volatile-locklessly-writable",
                function: "spte_has_volatile_bits",
                source: "locking.rst v5.10 section 2 case 2",
                since: "3.6",
                prevents: "A plain store over an SPTE that a fast fault has just made writable loses its W and D.",
                without: "spte_has_volatile_bits lacks its H && M clause: a read-only, accessed SPTE is replaced by a plain store and the first read is used.",
            }
            VolatileAccessTrack {
                name: "volatile-access-track",
                function: "spte_has_volatile_bits",
                source: "arch/x86/kvm/mmu/mmu.c",
                since: "4.11",
                prevents: "A plain store over an access-tracked SPTE loses a restore that ran meanwhile.",
                without: "spte_has_volatile_bits lacks its access-track clause.",
                masked: Masked {
                    by: "volatile-locklessly-writable",
                    because: "an access-tracked SPTE that may be written has H && M; one that may not loses only its Accessed state. Remove both and the pair fails",
                },
            }
            VolatileWriteNotDirty {
                name: "volatile-write-not-dirty",
                function: "spte_has_volatile_bits",
                source: "arch/x86/kvm/mmu/mmu.c",
                since: "3.6",
                prevents: "A plain store over W = 1, D = 0 loses a D that hardware sets meanwhile.",
                without: "spte_has_volatile_bits lacks its W && !D clause.",
                masked: Masked {
                    by: "volatile-locklessly-writable",
                    because: "W = 1 implies H && M",
                },
            }
            VolatileNotAccessed {
                name: "volatile-not-accessed",
                function: "spte_has_volatile_bits",
                source: "commit a9221dd5ec12",
                since: "2.6.36",
                prevents: "A plain store over A = 0 loses an A that hardware sets meanwhile.",
                without: "spte_has_volatile_bits lacks its !A clause.",
            }
            UpdatePassesAccessed {
                name: "update-passes-accessed",
                function: "mmu_spte_update",
                source: "arch/x86/kvm/mmu/mmu.c, mmu_spte_update()",
                since: "2.6.36",
                prevents: "A that hardware has set is overwritten, and the page counts as unused.",
                without: "mmu_spte_update does not call kvm_set_pfn_accessed.",
            }
            UpdatePassesDirty {
                name: "update-passes-dirty",
                function: "mmu_spte_update",
                source: "arch/x86/kvm/mmu/mmu.c, mmu_spte_update()",
                since: "2.6.36",
                prevents: "The dirty log clears D, and a page that was written is dropped as clean.",
                without: "mmu_spte_update does not call kvm_set_pfn_dirty.",
            }
            UpdateFlushesDirty {
                name: "update-flushes-dirty",
                function: "mmu_spte_update",
                source: "commit 7e71a59b2533",
                since: "4.6",
                prevents: "D is cleared and a CPU has it cached: what it writes from then on is in no PML buffer.",
                without: "mmu_spte_update asks for no flush where it has cleared D.",
                masked: Masked {
                    by: "log-flushes-always",
                    because: "whoever clears D for the dirty log flushes whatever SPTEs were; kernels to 5.19 do so for a harvest only. Remove both and the pair fails",
                },
            }
            FlushOnLocklesslyWritable {
                name: "flush-on-locklessly-writable",
                function: "mmu_spte_update",
                source: "locking.rst v5.10 section 2 case 3",
                since: "3.15",
                prevents: "Write protection finds a read-only SPTE while another CPU still has it writable in its TLB, and nobody flushes.",
                without: "mmu_spte_update asks for a flush only if the old SPTE had W set.",
            }
            WriteProtectChecksMmuWritable {
                name: "write-protect-checks-mmu-writable",
                function: "spte_write_protect",
                source: "arch/x86/kvm/mmu/mmu.c; commit 7c8a4742c4ab is its TDP twin",
                since: "3.6",
                prevents: "Write protection of a guest page table skips an SPTE that is read-only but MMU-writable.",
                without: "spte_write_protect returns early, with no flush and M still set, if W is clear, whatever pt_protect says.",
            }
            PtProtectClearsMmuWritable {
                name: "pt-protect-clears-mmu-writable",
                function: "spte_write_protect",
                source: "arch/x86/kvm/mmu/mmu.c",
                since: "3.6",
                prevents: "A fast fault makes a shadowed guest page table writable again.",
                without: "spte_write_protect with pt_protect clears W and leaves M.",
            }
            GetPageWriteProtects {
                name: "get-page-write-protects",
                function: "kvm_mmu_get_page",
                source: "arch/x86/kvm/mmu/mmu.c, kvm_mmu_get_page()",
                since: "2.6.x",
                prevents: "A guest page table is shadowed while an SPTE maps it writable: KVM does not see the guest change it.",
                without: "The SPTEs that map the new guest page table stay writable.",
            }
            GetPageFlush {
                name: "get-page-flush",
                function: "kvm_mmu_get_page",
                source: "arch/x86/kvm/mmu/mmu.c",
                since: "2.6.x",
                prevents: "A guest page table is shadowed while a CPU still has it writable in its TLB.",
                without: "kvm_mmu_get_page write-protects the new guest page table and links its shadow page without a flush.",
            }
            FlushAfterHarvest {
                name: "flush-after-harvest",
                function: "kvm_vm_ioctl_get_dirty_log",
                source: "virt/kvm/kvm_main.c; commit 198c74f43f0f",
                since: "3.15",
                prevents: "After a harvest a CPU goes on writing through its TLB, unlogged.",
                without: "GET_DIRTY_LOG returns without flushing.",
            }
            HarvestClearThenProtect {
                name: "harvest-clear-then-protect",
                function: "kvm_get_dirty_log_protect",
                source: "virt/kvm/kvm_main.c",
                since: "3.15",
                prevents: "A fast fault between write protection and the clearing of the bitmap has its mark taken by a harvest that no longer protects the page.",
                without: "Each word write-protects its pages first and clears its bits after.",
            }
            HarvestXchg {
                name: "harvest-xchg",
                function: "kvm_get_dirty_log_protect",
                source: "virt/kvm/kvm_main.c",
                since: "3.5 at the latest",
                prevents: "A page that is marked while a harvest clears the word is in no harvest.",
                without: "The word is read, and cleared by a plain store of zero.",
            }
            HarvestFlushesAlways {
                name: "harvest-flushes-always",
                function: "kvm_get_dirty_log_protect",
                source: "virt/kvm/kvm_main.c; commit 198c74f43f0f",
                since: "3.15",
                prevents: "Aging has cleared W without a flush: a harvest finds nothing to write-protect, and a CPU goes on writing through its TLB, unlogged.",
                without: "A harvest flushes only if its write protection cleared a W that was set.",
            }
            MakeSpteWriteProtectsPt {
                name: "make-spte-write-protects-pt",
                function: "make_spte",
                source: "arch/x86/kvm/mmu/mmu.c, mmu_need_write_protect()",
                since: "2.6.x",
                prevents: "A fault maps a guest page table that is shadowed writable.",
                without: "make_spte does not ask whether the frame is a shadowed guest page table.",
            }
            ZapPassesAccessed {
                name: "zap-passes-accessed",
                function: "mmu_spte_clear_track_bits",
                source: "arch/x86/kvm/mmu/mmu.c, mmu_spte_clear_track_bits()",
                since: "2.6.x",
                prevents: "The host takes a page that the guest has used for idle, because its mapping was dropped.",
                without: "The Accessed state of a dropped SPTE is not handed to the page.",
            }
            ZapPassesDirty {
                name: "zap-passes-dirty",
                function: "mmu_spte_clear_track_bits",
                source: "arch/x86/kvm/mmu/mmu.c, mmu_spte_clear_track_bits()",
                since: "2.6.x",
                prevents: "The host reclaims a page that the guest wrote as if it were clean.",
                without: "A zapped SPTE's dirty state is not passed on to the host's page.",
            }
            SetSpteMarksDirty {
                name: "set-spte-marks-dirty",
                function: "set_spte",
                source: "arch/x86/kvm/mmu/mmu.c",
                since: "3.15",
                prevents: "A slow fault maps a page writable in a logging slot and nobody knows.",
                without: "set_spte does not mark the page dirty.",
            }
            NotifierSeqRecheck {
                name: "notifier-seq-recheck",
                function: "mmu_notifier_retry",
                source: "commit e930bffe95e1",
                since: "2.6.27",
                prevents: "A fault maps a page that an invalidation has already been through.",
                without: "mmu_notifier_retry looks at mmu_notifier_count only.",
            }
            NotifierCountCheck {
                name: "notifier-count-check",
                function: "mmu_notifier_retry",
                source: "commit e930bffe95e1",
                since: "2.6.27",
                prevents: "A fault maps a page in the middle of its invalidation.",
                without: "mmu_notifier_retry looks at mmu_notifier_seq only.",
            }
            NotifierSeqBeforeGup {
                name: "notifier-seq-before-gup",
                function: "direct_page_fault",
                source: "virt/kvm/kvm_main.c",
                since: "2.6.27",
                prevents: "A sequence number read after the page was looked up hides the invalidation between the two.",
                without: "mmu_notifier_seq is read after gfn_to_pfn.",
            }
            NotifierSeqWhole {
                name: "notifier-seq-whole",
                function: "is_page_fault_stale",
                source: "commit 82d811ff5665 (6.1.y), ba6e3fe25543",
                since: "2.6.27; not from 5.16 (a955cad84cda) to 6.2",
                prevents: "A fault is tried again for ever, once the sequence of invalidations has the sign bit of an int.",
                without: "The sequence that a fault has read is cut to a signed number of two bits; it was an int.",
            }
            RangeStartZaps {
                name: "range-start-zaps",
                function: "kvm_mmu_notifier_invalidate_range_start",
                source: "virt/kvm/kvm_main.c, kvm_unmap_hva_range()",
                since: "2.6.27",
                prevents: "An SPTE maps a page that the host has taken back.",
                without: "range_start raises mmu_notifier_count, and zaps and flushes nothing.",
            }
            RangeStartCountsAlways {
                name: "range-start-counts-always",
                function: "kvm_mmu_notifier_invalidate_range_start",
                source: "commits 071064f14d87, 52ac8b358b0c",
                since: "2.6.27 to 5.14; 5.15 keeps memslots from changing between start and end",
                prevents: "A memslot comes between range_start and range_end: a fault maps the page that is taken away, and the count of invalidations falls below 0.",
                without: "range_start and range_end do nothing where no memslot has the frame when they look.",
            }
            AgeUsesXchgResult {
                name: "age-uses-xchg-result",
                function: "mmu_spte_age",
                source: "arch/x86/kvm/mmu/mmu.c; 5.10 lacks it",
                since: "later than 5.10",
                prevents: "A W that a fast fault sets between the read and the xchg of mmu_spte_age is wiped, and the page's dirty state with it.",
                without: "mmu_spte_age judges by its first read and ignores what the xchg returned.",
            }
            AgePassesDirty {
                name: "age-passes-dirty",
                function: "mmu_spte_age",
                source: "arch/x86/kvm/mmu/mmu.c, mmu_spte_age()",
                since: "4.11",
                prevents: "Aging takes W away, the only trace of a write where there are no dirty bits, and the host reclaims the page as if it were clean.",
                without: "mmu_spte_age does not pass the dirty state on to the host's page.",
            }
            ChangePteClearsMmuWritable {
                name: "change-pte-clears-mmu-writable",
                function: "kvm_mmu_changed_pte_notifier_make_spte",
                source: "commit f082d86ea685",
                since: "5.18",
                prevents: "change_pte leaves an SPTE with M and without H, which a fast fault that trusts M alone makes writable.",
                without: "change_pte clears W and H and leaves M.",
            }
            RangeStartFlush {
                name: "range-start-flush",
                function: "kvm_mmu_notifier_invalidate_range_start",
                source: "virt/kvm/kvm_main.c",
                since: "2.6.27",
                prevents: "The host takes a page back while a CPU still reaches it by its TLB.",
                without: "range_start returns without flushing.",
            }
            ChangePteFlush {
                name: "change-pte-flush",
                function: "kvm_mmu_notifier_change_pte",
                source: "virt/kvm/kvm_main.c; arch/x86/kvm/mmu/mmu.c, kvm_set_pte_rmapp()",
                since: "2.6.x",
                prevents: "The host takes the old page of a frame back while a CPU still reaches it by its TLB.",
                without: "change_pte rewrites the SPTEs and returns without flushing.",
            }
            ChangePteBumpsSeq {
                name: "change-pte-bumps-seq",
                function: "kvm_mmu_notifier_change_pte",
                source: "virt/kvm/kvm_main.c",
                since: "2.6.x",
                prevents: "A fault that looked the old page up before the host moved the frame maps it afterwards.",
                without: "change_pte leaves mmu_notifier_seq as it is.",
                masked: Masked {
                    by: "fault-holds-page",
                    because: "the host moves no page that has another reference, and a fault that has looked the page up holds one until it has mapped it; remove both and the pair fails",
                },
            }
            FaultHoldsPage {
                name: "fault-holds-page",
                function: "direct_page_fault, FNAME(page_fault)",
                source: "arch/x86/kvm/mmu/mmu.c, direct_page_fault(); arch/x86/kvm/mmu/paging_tmpl.h",
                since: "2.6.x",
                prevents: "The host gives the page another use between its lookup and its mapping.",
                without: "The reference to the page is dropped before mmu_lock is taken.",
                masked: Masked {
                    by: "change-pte-bumps-seq",
                    because: "a page that is moved or taken back meanwhile moves mmu_notifier_seq, and the fault is retried; remove both and the pair fails",
                },
            }
            RetryPutsPage {
                name: "retry-puts-page",
                function: "direct_page_fault, FNAME(page_fault)",
                source: "arch/x86/kvm/mmu/mmu.c, direct_page_fault(), out_unlock",
                since: "2.6.27",
                prevents: "A fault that gives up for an invalidation keeps its reference, and the page is never freed.",
                without: "The reference on the page is not given back where mmu_notifier_retry says so.",
            }
            MmuSetSpteFlushesOldPfn {
                name: "mmu-set-spte-flushes-old-pfn",
                function: "mmu_set_spte",
                source: "arch/x86/kvm/mmu/mmu.c",
                since: "2.6.x",
                prevents: "A mapping is replaced by that of another page and leaves the rmap, while a CPU keeps it in its TLB: no invalidation will flush it.",
                without: "mmu_set_spte drops the SPTE of another page and asks for no flush.",
            }
            PteWriteZaps {
                name: "pte-write-zaps",
                function: "kvm_mmu_pte_write",
                source: "arch/x86/kvm/mmu/mmu.c",
                since: "2.6.x",
                prevents: "A guest changes an entry of a shadowed page table, and the shadow keeps the old one.",
                without: "kvm_mmu_pte_write leaves the SPTE of the entry as it is.",
            }
            PteWriteFlushes {
                name: "pte-write-flushes",
                function: "kvm_mmu_pte_write",
                source: "arch/x86/kvm/mmu/mmu.c, kvm_mmu_flush_or_zap()",
                since: "2.6.x",
                prevents: "A mapping that a guest has changed leaves the rmap, while another CPU keeps it in its TLB: no invalidation will flush it.",
                without: "kvm_mmu_pte_write flushes the TLB of its own vCPU only.",
            }
            EmulatorStoresFirst {
                name: "emulator-stores-first",
                function: "emulator_write_phys",
                source: "arch/x86/kvm/x86.c, emulator_write_phys()",
                since: "2.6.x",
                prevents: "A fault between the zap and the store maps again what the guest entry said before, and nobody zaps it any more.",
                without: "kvm_mmu_pte_write comes first, and the store to guest memory follows.",
            }
            EmulatorMarksDirty {
                name: "emulator-marks-dirty",
                function: "emulator_write_phys",
                source: "virt/kvm/kvm_main.c, __kvm_write_guest_page()",
                since: "2.6.x",
                prevents: "A store that KVM carries out for the guest is in no dirty log.",
                without: "kvm_vcpu_write_guest stores and does not mark the page.",
            }
            GpteRecheckUpper {
                name: "gpte-recheck-upper",
                function: "FNAME(fetch)",
                source: "arch/x86/kvm/mmu/paging_tmpl.h, FNAME(gpte_changed)",
                since: "2.6.x",
                prevents: "A fault links the shadow of a guest table that the guest has taken out of its tables since the walk.",
                without: "FNAME(fetch) does not read the entries above the leaf again.",
            }
            GpteRecheckLeaf {
                name: "gpte-recheck-leaf",
                function: "FNAME(fetch)",
                source: "arch/x86/kvm/mmu/paging_tmpl.h, FNAME(gpte_changed)",
                since: "2.6.x",
                prevents: "A fault maps what a guest entry said before the guest changed it, and nobody zaps it any more.",
                without: "FNAME(fetch) does not read the leaf entry again once its table is write-protected.",
            }
            LocklessWalkMode {
                name: "lockless-walk-mode",
                function: "walk_shadow_page_lockless_begin",
                source: "commit c142786c6291",
                since: "3.5",
                prevents: "A flush does not wait for a lockless walker, and the page under it is freed or reused.",
                without: "The walk does not set vcpu->mode to READING_SHADOW_PAGE_TABLES.",
            }
            LocklessWalkIrqOff {
                name: "lockless-walk-irq-off",
                function: "walk_shadow_page_lockless_begin",
                source: "commit c142786c6291",
                since: "3.5",
                prevents: "An IPI is handled in the middle of a lockless walk, so waiting for it waits for nothing.",
                without: "The walk runs with interrupts on.",
            }
            FlushRequestWait {
                name: "flush-request-wait",
                function: "kvm_make_vcpus_request_mask",
                source: "commit c142786c6291",
                since: "4.13",
                prevents: "kvm_flush_remote_tlbs returns before the CPUs that it interrupted have handled the interrupt.",
                without: "KVM_REQ_TLB_FLUSH lacks KVM_REQUEST_WAIT: the IPIs are sent and not waited for.",
            }
            RequestBeforeMode {
                name: "request-before-mode",
                function: "kvm_make_vcpus_request_mask",
                source: "commit 6b7e2d099148; Documentation/virt/kvm/vcpu-requests.rst, Ensuring Requests Are Seen",
                since: "2.6.39",
                prevents: "A vCPU enters the guest between the look at its mode and the request: it gets no interrupt, and runs with the request pending.",
                without: "The mode is looked at, and the kick decided, before the request is made.",
            }
            FlushBeforeFree {
                name: "flush-before-free",
                function: "kvm_mmu_commit_zap_page",
                source: "commit c142786c6291",
                since: "3.5",
                prevents: "A shadow page is freed under a lockless walker.",
                without: "The zapped pages are freed first and the flush follows.",
            }
            EntryIrqOff {
                name: "entry-irq-off",
                function: "vcpu_enter_guest",
                source: "Documentation/virt/kvm/vcpu-requests.rst, IN_GUEST_MODE",
                since: "2.6.x",
                prevents: "The IPI that should keep a vCPU out of the guest is taken before the entry, and the guest runs with the request pending.",
                without: "Interrupts go off after the last look at the requests.",
            }
            EntryRequestCheck {
                name: "entry-request-check",
                function: "vcpu_enter_guest",
                source: "Documentation/virt/kvm/vcpu-requests.rst",
                since: "2.6.x",
                prevents: "A flush that was requested just before guest entry is not carried out.",
                without: "vcpu_enter_guest does not look at its requests again after it has set IN_GUEST_MODE.",
            }
            EntryServesRequests {
                name: "entry-serves-requests",
                function: "vcpu_enter_guest",
                source: "arch/x86/kvm/x86.c, vcpu_enter_guest()",
                since: "2.6.x",
                prevents: "A vCPU that was outside the guest when a flush was requested enters with a stale TLB.",
                without: "Requests are cleared on entry, and the TLB is not flushed.",
            }
            MakeSpteHostReadonly {
                name: "make-spte-strips-w-host-readonly",
                function: "make_spte",
                source: "arch/x86/kvm/mmu/mmu.c",
                since: "2.6.x",
                prevents: "An SPTE is writable although the host maps the page read-only.",
                without: "make_spte sets W and M although H is clear.",
            }
            PinHold {
                name: "pin-hold",
                function: "fast_page_fault (pinned)",
                source: "locking.rst v5.10 section 2 case 1, the proposed solution",
                since: "proposed",
                prevents: "The pinned page is freed and reused between the pin and the cmpxchg.",
                without: "The reference is dropped again before the cmpxchg.",
                masked: Masked {
                    by: "lockless-walk-mode",
                    because: "the flush that comes before a page can be reused waits for the walk that the fault is in; remove both and the pair fails",
                },
            }
            PinPfnCompare {
                name: "pin-pfn-compare",
                function: "fast_page_fault (pinned)",
                source: "locking.rst v5.10 section 2 case 1, the proposed solution",
                since: "proposed",
                prevents: "The pinned page is not the page that the SPTE maps.",
                without: "The pfn that was pinned is not compared with the pfn of the SPTE.",
                masked: Masked {
                    by: "lockless-walk-mode",
                    because: "within one lockless walk the page of an SPTE stays the page of its frame, because whoever changes that flushes; remove both and the pair fails",
                },
            }
            PinForWrite {
                name: "pin-for-write",
                function: "fast_page_fault (pinned)",
                source: "locking.rst v5.10 section 2 case 1, the proposed solution",
                since: "proposed",
                prevents: "A page that KSM shares is pinned and made writable.",
                without: "The reference is taken for reading, and a page that the host maps read-only is accepted.",
                masked: Masked {
                    by: "the H bit",
                    because: "a KSM page has H = 0, hence M = 0, and cannot equal an old SPTE that had H = 1",
                },
            }
        }
    };
}
