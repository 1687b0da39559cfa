//! A worker that handles an asynchronous page fault, and the end of its VM.
//!
//! Guarantee: KVM's own code is not unloaded while a worker runs it. Mechanism: who destroys a VM
//! takes back the work that has not begun and waits for the one that has, and the VM's reference on
//! the module goes after that. Linux v5.10 `virt/kvm/async_pf.c`. Not v5.10: there a worker holds a
//! reference on its VM instead (gone since 6.9, commit 3d75b8aa5c29), so that the VM outlives the
//! work but the module need not outlive the worker. Nor that a VM holds a reference on the module
//! (since 5.17, commit 5f6de5cbebee): in 5.10 the files that user space has open do, and the module
//! may go even before the worker puts its VM. The VM is another one than the one that is modelled;
//! one vCPU of it has queued work.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::platform::{Platform, Until, Word};
use crate::tag::{Object, Tag};
use crate::vm::{Mmu, Vm};

/// A VM whose vCPU waits for a page, the work that brings the page in, and the module.
#[derive(Debug)]
pub struct AsyncPf<P: Platform> {
    /// `kvm->users_count` of that VM. No lock: atomic.
    users_count: P::Word,
    /// The work: [`QUEUED`], [`RUNNING`], or [`IDLE`]. No lock: the workqueue's own.
    work: P::Word,
    /// The references on the module, which the VM has one of. No lock: atomic.
    module_refs: P::Word,
    /// The module's code.
    module_text: [P::Word; 1],
}

/// There is no work, or its function has returned.
const IDLE: u64 = 0;
/// It has not begun.
const QUEUED: u64 = 1;
/// Its function runs.
const RUNNING: u64 = 2;

impl<P: Platform> AsyncPf<P> {
    /// `kvm_setup_async_pf`: work is queued, and user space has the VM open.
    pub fn new(p: &P) -> Self {
        let word = |object, init| p.word(Tag::one(object), init);
        let held = p.without(Guard::AsyncPfFlushed, || 1).unwrap_or(0);
        AsyncPf {
            users_count: word(Object::UsersCount, 1 + held),
            work: word(Object::AsyncPfWork, QUEUED),
            module_refs: word(Object::ModuleRefs, 1),
            module_text: [word(Object::ModuleText, 0)],
        }
    }
}

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    fn async_pf(&self) -> &AsyncPf<P> {
        self.kvm.async_pf.as_ref().expect("programs that use it have it")
    }

    /// `async_pf_execute`, on a kernel thread; nothing if the work was taken back.
    ///
    /// Locks: takes `mmap_lock` for reading.
    #[kernel]
    pub fn async_pf_execute(&self) {
        let work = &self.async_pf().work;
        // ORDERING: acq-rel: the workqueue's own.
        if work.compare_exchange(QUEUED, RUNNING, AcqRel, Acquire).is_err() {
            return;
        }
        self.runs_module();
        self.host.get_user_pages_remote();
        self.p.without(Guard::AsyncPfFlushed, || self.kvm_put_kvm());
        // Its last instructions.
        self.runs_module();
        // ORDERING: release: whoever has waited for the work finds its function over.
        work.store(IDLE, Release);
        self.p.mark(Mark::AsyncPfExecuted);
    }

    fn runs_module(&self) {
        // ORDERING: relaxed: it is code that is fetched.
        self.async_pf().module_text[0].load(Relaxed);
    }

    /// `kvm_put_kvm`: the last reference destroys the VM.
    ///
    /// Locks: none may be held that workers want.
    #[kernel]
    pub fn kvm_put_kvm(&self) {
        // ORDERING: acq-rel: refcount_dec_and_test.
        if self.async_pf().users_count.fetch_add(u64::MAX, AcqRel) == 1 {
            self.kvm_clear_async_pf_completion_queue();
            // module_put, the last of kvm_destroy_vm.
            // ORDERING: acq-rel: atomic.
            self.async_pf().module_refs.fetch_add(u64::MAX, AcqRel);
            self.p.mark(Mark::VmDestroyed);
        }
    }

    /// `kvm_clear_async_pf_completion_queue`: takes the work back, or waits for it
    /// (`cancel_work_sync`, `flush_work`).
    #[kernel]
    fn kvm_clear_async_pf_completion_queue(&self) {
        let work = &self.async_pf().work;
        self.p.guarded(Guard::AsyncPfFlushed, || {
            // ORDERING: acq-rel: the workqueue's own.
            if work.compare_exchange(QUEUED, IDLE, AcqRel, Acquire).is_err() {
                work.wait_until(Until::Is(IDLE));
            }
        });
    }

    /// `delete_module`: nothing if somebody holds a reference.
    pub fn delete_module(&self) {
        let async_pf = self.async_pf();
        // ORDERING: acquire: what was done before the last reference went is over.
        if async_pf.module_refs.load(Acquire) == 0 {
            self.p.freed(&async_pf.module_text);
            self.p.mark(Mark::ModuleUnloaded);
        }
    }
}
