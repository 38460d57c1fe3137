//! What libvirt says by itself: its own event loop, in a thread of its own, and callbacks that hand on what they hear.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Once;

use tokio::sync::mpsc::UnboundedSender;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::event::{event_register_default_impl, event_run_default_impl};
use virt::sys;

use super::protocol::{Said, StopReason};

/// Starts the loop, once in a process and before its first connection.
pub fn start() -> Result<(), Error> {
    static STARTED: Once = Once::new();
    let mut started = Ok(());
    STARTED.call_once(|| {
        started = event_register_default_impl();
        if started.is_ok() {
            // It ends with the process, or where libvirt's own loop fails.
            std::thread::spawn(|| while event_run_default_impl().is_ok() {});
        }
    });
    started
}

/// Says when the connection is lost.
pub fn hear_of_loss(connection: &Connect, to: UnboundedSender<Said>) -> Result<(), String> {
    // SAFETY: `lost` has the type that libvirt asks for; what it is given is freed by `forget` alone.
    let registered =
        unsafe { sys::virConnectRegisterCloseCallback(connection.as_ptr(), Some(lost), listener(to), Some(forget)) };
    if registered < 0 { Err(super::holder::message(&Error::last_error())) } else { Ok(()) }
}

/// Says what happens to the domain.
pub fn hear_of_domain(connection: &Connect, domain: &Domain, to: UnboundedSender<Said>) -> Result<(), String> {
    type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
    // SAFETY: libvirt has one type for the callbacks of all events, and calls each with its own event's arguments.
    let callbacks: [(sys::virDomainEventID, Generic); 3] = unsafe {
        [
            (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, std::mem::transmute::<Lifecycle, Generic>(lifecycle)),
            (sys::VIR_DOMAIN_EVENT_ID_REBOOT, rebooted),
            (sys::VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, std::mem::transmute::<DiskError, Generic>(disk_failed)),
        ]
    };
    for (event, callback) in callbacks {
        // SAFETY: as above; connection and domain outlive the call.
        let registered = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connection.as_ptr(),
                domain.as_ptr(),
                event.cast_signed(),
                Some(callback),
                listener(to.clone()),
                Some(forget),
            )
        };
        if registered < 0 {
            return Err(super::holder::message(&Error::last_error()));
        }
    }
    Ok(())
}

/// What a callback is given: where it says what it heard.
fn listener(to: UnboundedSender<Said>) -> *mut c_void {
    Box::into_raw(Box::new(to)).cast()
}

unsafe extern "C" fn forget(listener: *mut c_void) {
    // SAFETY: libvirt calls this once for what `listener` made, when no callback will be called with it any more.
    drop(unsafe { Box::from_raw(listener.cast::<UnboundedSender<Said>>()) });
}

/// # Safety
/// `listener` is what `listener()` made, and not forgotten yet.
unsafe fn say(listener: *mut c_void, said: Said) {
    // SAFETY: the caller's.
    let to = unsafe { &*listener.cast::<UnboundedSender<Said>>() };
    // Nobody listens any more: the process is about to end.
    let _ = to.send(said);
}

unsafe extern "C" fn lost(_: sys::virConnectPtr, reason: c_int, listener: *mut c_void) {
    let reason = match reason.cast_unsigned() {
        sys::VIR_CONNECT_CLOSE_REASON_EOF => "its daemon has ended",
        sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE => "its daemon does not answer any more",
        // We closed it.
        sys::VIR_CONNECT_CLOSE_REASON_CLIENT => return,
        _ => "reading from its daemon failed",
    };
    // SAFETY: libvirt gives what was registered.
    unsafe { say(listener, Said::ConnectionLost { reason: reason.into() }) };
}

type Lifecycle = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;

unsafe extern "C" fn lifecycle(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    listener: *mut c_void,
) -> c_int {
    let detail = detail.cast_unsigned();
    let said = match event.cast_unsigned() {
        sys::VIR_DOMAIN_EVENT_SHUTDOWN => {
            let by = match detail {
                sys::VIR_DOMAIN_EVENT_SHUTDOWN_GUEST => "guest",
                sys::VIR_DOMAIN_EVENT_SHUTDOWN_HOST => "host",
                _ => "guest or host",
            };
            Said::ShuttingDown { by: by.into() }
        }
        sys::VIR_DOMAIN_EVENT_CRASHED => Said::Panicked {},
        sys::VIR_DOMAIN_EVENT_STOPPED => Said::Stopped {
            why: match detail {
                sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN => StopReason::Shutdown,
                sys::VIR_DOMAIN_EVENT_STOPPED_DESTROYED => StopReason::Destroyed,
                sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED => StopReason::Crashed,
                sys::VIR_DOMAIN_EVENT_STOPPED_FAILED => StopReason::Failed,
                _ => StopReason::Other,
            },
        },
        // Started, suspended, resumed: our own doing.
        _ => return 0,
    };
    // SAFETY: libvirt gives what was registered.
    unsafe { say(listener, said) };
    0
}

unsafe extern "C" fn rebooted(_: sys::virConnectPtr, _: sys::virDomainPtr, listener: *mut c_void) {
    // SAFETY: libvirt gives what was registered.
    unsafe { say(listener, Said::Rebooted {}) };
}

type DiskError = unsafe extern "C" fn(
    sys::virConnectPtr,
    sys::virDomainPtr,
    *const c_char,
    *const c_char,
    c_int,
    *const c_char,
    *mut c_void,
);

unsafe extern "C" fn disk_failed(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    _path: *const c_char,
    device: *const c_char,
    _action: c_int,
    reason: *const c_char,
    listener: *mut c_void,
) {
    // SAFETY: libvirt gives texts that live as long as the call, or nothing.
    let text = |text: *const c_char| match text.is_null() {
        true => String::new(),
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    };
    let said = Said::DiskFailed { device: text(device), reason: text(reason) };
    // SAFETY: libvirt gives what was registered.
    unsafe { say(listener, said) };
}
