//! What a machine here takes from its tool. loom and shuttle have the same shape: that of `std`.

use std::fmt::Debug;
use std::ops::DerefMut;

use kvmmu_model::Ordering;

/// The tool below a machine.
pub trait Primitives: Debug + Sized + 'static {
    /// True if the request, mode and IPI protocol is left out.
    const CORE_ONLY: bool;
    /// A tracked atomic.
    type Atomic: Debug + Send + Sync;
    /// A tracked mutex.
    type Mutex<T: 'static>;
    /// Ownership of it.
    type Guard<'a, T: 'static>: DerefMut<Target = T>;
    /// A condition variable.
    type Condvar: Debug;
    /// A running thread.
    type JoinHandle;

    /// Makes an atomic.
    fn atomic(value: u64) -> Self::Atomic;
    /// An atomic load.
    #[track_caller]
    fn load(a: &Self::Atomic, order: Ordering) -> u64;
    /// An atomic store.
    #[track_caller]
    fn store(a: &Self::Atomic, value: u64, order: Ordering);
    /// An atomic exchange.
    #[track_caller]
    fn swap(a: &Self::Atomic, value: u64, order: Ordering) -> u64;
    /// An atomic compare-and-exchange.
    ///
    /// # Errors
    /// What the atomic held, if that was not `orders.0`'s expectation.
    #[track_caller]
    fn compare_exchange(
        a: &Self::Atomic,
        values: (u64, u64),
        orders: (Ordering, Ordering),
    ) -> Result<u64, u64>;
    /// An atomic or.
    #[track_caller]
    fn fetch_or(a: &Self::Atomic, bits: u64, order: Ordering) -> u64;
    /// An atomic and.
    #[track_caller]
    fn fetch_and(a: &Self::Atomic, bits: u64, order: Ordering) -> u64;
    /// An atomic addition.
    #[track_caller]
    fn fetch_add(a: &Self::Atomic, value: u64, order: Ordering) -> u64;
    /// A fence.
    #[track_caller]
    fn fence(order: Ordering);

    /// Makes a mutex.
    fn mutex<T: 'static>(value: T) -> Self::Mutex<T>;
    /// Takes it.
    #[track_caller]
    fn lock<T: 'static>(mutex: &Self::Mutex<T>) -> Self::Guard<'_, T>;
    /// Makes a condition variable.
    fn condvar() -> Self::Condvar;
    /// Lets go of the mutex until notified.
    #[track_caller]
    fn wait<'a, T: 'static>(
        condvar: &Self::Condvar,
        guard: Self::Guard<'a, T>,
    ) -> Self::Guard<'a, T>;
    /// Wakes all who wait.
    #[track_caller]
    fn notify_all(condvar: &Self::Condvar);

    /// The running thread: 0 is the first, others count in the order of their start.
    fn thread() -> usize;
    /// Starts a thread.
    fn spawn(body: impl FnOnce() + Send + 'static) -> Self::JoinHandle;
    /// Waits for its end.
    fn join(handle: Self::JoinHandle);
}

/// Implements [`Primitives`] on a crate that looks like `std`.
macro_rules! primitives {
    ($Name:ident, $crate_name:ident, core_only: $core:literal, thread: $thread:expr) => {
        impl $crate::primitives::Primitives for $Name {
            const CORE_ONLY: bool = $core;
            type Atomic = ::$crate_name::sync::atomic::AtomicU64;
            type Mutex<T: 'static> = ::$crate_name::sync::Mutex<T>;
            type Guard<'a, T: 'static> = ::$crate_name::sync::MutexGuard<'a, T>;
            type Condvar = ::$crate_name::sync::Condvar;
            type JoinHandle = ::$crate_name::thread::JoinHandle<()>;

            fn atomic(value: u64) -> Self::Atomic {
                ::$crate_name::sync::atomic::AtomicU64::new(value)
            }
            #[track_caller]
            fn load(a: &Self::Atomic, order: Ordering) -> u64 {
                a.load(order)
            }
            #[track_caller]
            fn store(a: &Self::Atomic, value: u64, order: Ordering) {
                a.store(value, order);
            }
            #[track_caller]
            fn swap(a: &Self::Atomic, value: u64, order: Ordering) -> u64 {
                a.swap(value, order)
            }
            #[track_caller]
            fn compare_exchange(
                a: &Self::Atomic,
                values: (u64, u64),
                orders: (Ordering, Ordering),
            ) -> Result<u64, u64> {
                a.compare_exchange(values.0, values.1, orders.0, orders.1)
            }
            #[track_caller]
            fn fetch_or(a: &Self::Atomic, bits: u64, order: Ordering) -> u64 {
                a.fetch_or(bits, order)
            }
            #[track_caller]
            fn fetch_and(a: &Self::Atomic, bits: u64, order: Ordering) -> u64 {
                a.fetch_and(bits, order)
            }
            #[track_caller]
            fn fetch_add(a: &Self::Atomic, value: u64, order: Ordering) -> u64 {
                a.fetch_add(value, order)
            }
            #[track_caller]
            fn fence(order: Ordering) {
                ::$crate_name::sync::atomic::fence(order);
            }
            fn mutex<T: 'static>(value: T) -> Self::Mutex<T> {
                ::$crate_name::sync::Mutex::new(value)
            }
            #[track_caller]
            fn lock<T: 'static>(mutex: &Self::Mutex<T>) -> Self::Guard<'_, T> {
                mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
            }
            fn condvar() -> Self::Condvar {
                ::$crate_name::sync::Condvar::new()
            }
            #[track_caller]
            fn wait<'a, T: 'static>(
                condvar: &Self::Condvar,
                guard: Self::Guard<'a, T>,
            ) -> Self::Guard<'a, T> {
                condvar.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner())
            }
            #[track_caller]
            fn notify_all(condvar: &Self::Condvar) {
                condvar.notify_all();
            }
            fn thread() -> usize {
                $thread
            }
            fn spawn(body: impl FnOnce() + Send + 'static) -> Self::JoinHandle {
                ::$crate_name::thread::spawn(body)
            }
            fn join(handle: Self::JoinHandle) {
                handle.join().expect("a thread that ends");
            }
        }
    };
}
pub(crate) use primitives;
