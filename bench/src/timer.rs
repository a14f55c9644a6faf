//! A timer exact to some microseconds. Tokio's has a granularity of a millisecond, more than a request takes here.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// The kernel's timer, waited for like a socket.
pub struct Timer {
    timer: TimerFd,
    /// The same timer as something that tokio can read: it is not a pipe, but is read like one.
    expiry: pipe::Receiver,
}

impl Timer {
    /// A timer of the current runtime.
    ///
    /// # Errors
    /// When the kernel has none to give.
    pub fn new() -> Result<Self> {
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        let expiry = pipe::Receiver::from_owned_fd_unchecked(timer.as_fd().try_clone_to_owned()?)?;
        Ok(Self { timer, expiry })
    }

    /// Waits for a time; one that is past is not waited for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn until(&mut self, when: Instant) -> Result<()> {
        let wait = when.saturating_duration_since(Instant::now());
        if wait > Duration::ZERO {
            self.timer.set(
                Expiration::OneShot(TimeSpec::from_duration(wait)),
                TimerSetTimeFlags::empty(),
            )?;
            // How often it has expired, which is once.
            self.expiry.read_u64_le().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn never_early_and_usable_again() {
        let mut timer = Timer::new().unwrap();
        for wait in [0, 50, 1_500, 0, 300] {
            let when = Instant::now() + Duration::from_micros(wait);
            timer.until(when).await.unwrap();
            assert!(Instant::now() >= when);
        }
    }
}
