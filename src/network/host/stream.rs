//! Connections as ordinary streams.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddrV4;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use smoltcp::wire::{IpAddress, IpEndpoint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stack::Shared;

/// A TCP connection between the host and a machine. Dropping it closes it; what was written is still sent.
pub struct HostStream {
    shared: Arc<Shared>,
    handle: SocketHandle,
}

impl HostStream {
    pub(super) async fn connect(shared: &Arc<Shared>, remote: SocketAddrV4) -> io::Result<Self> {
        let handle = shared.lock().connect(remote)?;
        // From here on it is released whatever happens, also when nobody waits any more.
        let stream = Self { shared: shared.clone(), handle };
        shared.changed.notify_one();
        poll_fn(|context| stream.shared.lock().poll_connected(handle, context)).await?;
        Ok(stream)
    }

    /// The other end; `None` once the connection is over.
    pub fn remote(&self) -> Option<SocketAddrV4> {
        let end = self.shared.lock().socket(self.handle).remote_endpoint()?;
        let IpEndpoint { addr: IpAddress::Ipv4(address), port } = end;
        Some(SocketAddrV4::new(address, port))
    }
}

impl Drop for HostStream {
    fn drop(&mut self) {
        self.shared.lock().release(self.handle);
        self.shared.changed.notify_one();
    }
}

impl AsyncRead for HostStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut stack = self.shared.lock();
        let socket = stack.socket(self.handle);
        if !socket.can_recv() && socket.may_recv() {
            socket.register_recv_waker(context.waker());
            return Poll::Pending;
        }
        let received = socket.recv(|bytes| {
            let count = bytes.len().min(buffer.remaining());
            buffer.put_slice(&bytes[..count]);
            (count, count)
        });
        match received {
            Ok(_) => {
                // The window has opened.
                drop(stack);
                self.shared.changed.notify_one();
                Poll::Ready(Ok(()))
            }
            Err(tcp::RecvError::Finished) => Poll::Ready(Ok(())),
            Err(tcp::RecvError::InvalidState) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for HostStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut stack = self.shared.lock();
        let socket = stack.socket(self.handle);
        if !socket.may_send() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match socket.send_slice(bytes) {
            Ok(0) if !bytes.is_empty() => {
                socket.register_send_waker(context.waker());
                Poll::Pending
            }
            Ok(count) => {
                drop(stack);
                self.shared.changed.notify_one();
                Poll::Ready(Ok(count))
            }
            Err(tcp::SendError::InvalidState) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The other end reads to the end; what it still has to say can still be read.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.lock().socket(self.handle).close();
        self.shared.changed.notify_one();
        Poll::Ready(Ok(()))
    }
}

/// A TCP port of the host's that machines connect to.
pub struct HostListener {
    shared: Arc<Shared>,
    port: u16,
    /// Each takes one connection.
    waiting: Vec<SocketHandle>,
}

impl HostListener {
    pub(super) fn new(shared: &Arc<Shared>, port: u16, backlog: usize) -> io::Result<Self> {
        let mut listener = Self { shared: shared.clone(), port, waiting: Vec::new() };
        for _ in 0..backlog.max(1) {
            listener.waiting.push(shared.lock().listen(port)?);
        }
        Ok(listener)
    }

    /// Waits for the next connection.
    pub async fn accept(&mut self) -> io::Result<HostStream> {
        let (index, handle) = poll_fn(|context| {
            let mut stack = self.shared.lock();
            for (index, handle) in self.waiting.iter().enumerate() {
                match stack.poll_connected(*handle, context) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Ok((index, *handle))),
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NetworkDown => {
                        return Poll::Ready(Err(error));
                    }
                    // Whoever began to connect thought better of it (a reset makes it listen again).
                    Poll::Ready(Err(_)) | Poll::Pending => {}
                }
            }
            Poll::Pending
        })
        .await?;
        self.waiting.swap_remove(index);
        let stream = HostStream { shared: self.shared.clone(), handle };
        let next = self.shared.lock().listen(self.port)?;
        self.waiting.push(next);
        Ok(stream)
    }
}

impl Drop for HostListener {
    fn drop(&mut self) {
        let mut stack = self.shared.lock();
        self.waiting.drain(..).for_each(|handle| stack.release(handle));
        drop(stack);
        self.shared.changed.notify_one();
    }
}
