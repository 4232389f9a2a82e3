//! The TUN interface: whole IP packets of up to 64 KiB, with a `virtio_net_hdr` in front of each.
//!
//! The header lets the kernel hand over TCP segments uncut (TSO) and without finished checksums, and take the same from
//! us; that decides the throughput of the whole path. Packets go to and from `adit-netstack` as they are: nothing
//! is split or merged here.
//!
//! The interface is not persistent: it ends with the file descriptor, and takes its addresses and routes with it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

use adit_netstack::{MAX_PACKET, Transmit};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of `virtio_net_hdr` without `num_buffers`. *virtio 1.2, 5.1.6*; Linux: `TUNGETVNETHDRSZ`.
const HEADER: usize = 10;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV4` and `VIRTIO_NET_HDR_GSO_TCPV6`.
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Longest interface name, in bytes: `IFNAMSIZ` without the terminating zero.
const MAX_NAME: usize = 15;
const DEVICE: &str = "/dev/net/tun";

/// The TUN interface could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// A name that the kernel cannot use.
    #[error("{name:?} cannot name an interface: expected 1 to {MAX_NAME} letters, digits, dots and dashes")]
    Name {
        /// The name.
        name: String,
    },
    /// There is no TUN device.
    #[error(
        "{DEVICE} is missing: load the kernel module with `modprobe tun`, or give the container this device"
    )]
    NoDevice,
    /// The process may not make interfaces.
    #[error("not permitted to make a TUN interface: run the agent as root or with CAP_NET_ADMIN")]
    NotPermitted,
    /// An interface of this name exists.
    #[error("an interface named {name} exists already: stop what made it, or choose another name")]
    NameInUse {
        /// The name.
        name: String,
    },
    /// Something else.
    #[error("cannot make the TUN interface")]
    Io(#[source] io::Error),
}

/// An open TUN interface. Needs a Tokio runtime.
#[derive(Debug)]
pub(crate) struct Tun {
    file: AsyncFd<File>,
    name: String,
    /// The packet read last, behind its header.
    received: Vec<u8>,
    /// The packet to write next, behind its header.
    sending: Vec<u8>,
}

impl Tun {
    /// Makes a new interface named `name`.
    pub(crate) fn open(name: &str) -> Result<Self, TunError> {
        let usable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(usable) || matches!(name, "." | "..")
        {
            return Err(TunError::Name { name: name.to_owned() });
        }
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE);
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => TunError::NoDevice,
            Some(libc::EACCES | libc::EPERM) => TunError::NotPermitted,
            _ => TunError::Io(error),
        })?;
        set_interface(&file, name).map_err(|error| {
            if matches!(error, Errno::EPERM | Errno::EACCES) {
                TunError::NotPermitted
            } else if matches!(error, Errno::EBUSY | Errno::EINVAL | Errno::EEXIST) {
                TunError::NameInUse { name: name.to_owned() }
            } else {
                TunError::Io(error.into())
            }
        })?;
        set_offload(&file).map_err(|error| TunError::Io(error.into()))?;
        Ok(Self {
            file: register(file).map_err(TunError::Io)?,
            name: name.to_owned(),
            received: vec![0; HEADER + MAX_PACKET],
            sending: vec![0; HEADER + MAX_PACKET],
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The next packet, if the kernel has one.
    pub(crate) fn try_read(&mut self) -> io::Result<Option<&[u8]>> {
        match nix::unistd::read(self.file.as_fd(), &mut self.received) {
            Ok(read) => Ok(Some(self.received.get(HEADER..read).unwrap_or_default())),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until there is a packet, and hands it to `take`.
    ///
    /// May be cancelled: no packet is lost.
    pub(crate) async fn read(&mut self, take: impl FnOnce(&[u8])) -> io::Result<()> {
        loop {
            let mut ready = self.file.readable().await?;
            let received = &mut self.received;
            // Not ready after all: that is known then, and the next wait is one.
            if let Ok(read) = ready.try_io(|file| Ok(nix::unistd::read(file.get_ref().as_fd(), received)?)) {
                take(self.received.get(HEADER..read?).unwrap_or_default());
                return Ok(());
            }
        }
    }

    /// Where [`Self::write`] expects the packet: room for [`MAX_PACKET`] bytes.
    pub(crate) fn packet(&mut self) -> &mut [u8] {
        &mut self.sending[HEADER..]
    }

    /// Hands the packet in [`Self::packet`] to the kernel. False if the kernel has no room for it: TCP repeats it.
    pub(crate) fn write(&mut self, transmit: &Transmit) -> io::Result<bool> {
        let header = header(transmit, self.sending[HEADER] >> 4);
        self.sending[..HEADER].copy_from_slice(&header);
        match nix::unistd::write(self.file.as_fd(), &self.sending[..HEADER + transmit.len]) {
            Ok(_) => Ok(true),
            // EINVAL: a packet that this kernel does not like; EIO: the interface is down.
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINVAL | Errno::EIO | Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn header(transmit: &Transmit, version: u8) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let Some(offload) = transmit.offload else { return header };
    header[0] = NEEDS_CHECKSUM;
    if let Some(segment_size) = offload.segment_size {
        header[1] = if version == 4 { GSO_TCPV4 } else { GSO_TCPV6 };
        header[4..6].copy_from_slice(&segment_size.to_ne_bytes());
    }
    header[2..4].copy_from_slice(&offload.header_len.to_ne_bytes());
    header[6..8].copy_from_slice(&offload.checksum_start.to_ne_bytes());
    header[8..10].copy_from_slice(&offload.checksum_offset.to_ne_bytes());
    header
}

#[expect(unsafe_code, reason = "the runtime must not be left with a closed descriptor")]
fn register(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a File gives the same descriptor for as long as it lives, which is as long as the AsyncFd that owns it.
    Ok(unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?)
}

/// `TUNSETIFF`: a TUN (not TAP) interface without packet information, with `virtio_net_hdr`, not existing before.
#[expect(unsafe_code, reason = "an ioctl that reads the ifreq it is given")]
fn set_interface(file: &File, name: &str) -> Result<(), Errno> {
    nix::ioctl_write_ptr_bad!(tunsetiff, libc::TUNSETIFF, libc::ifreq);
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    // The constant's sign bit is not set: IFF_TUN_EXCL is 0x8000, which a short holds as its lowest value.
    let ifru_flags = u16::try_from(flags).map_err(|_| Errno::EINVAL)?.cast_signed();
    let request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags } };
    // SAFETY: the descriptor is open, and the request is a whole ifreq that the kernel only reads.
    unsafe { tunsetiff(file.as_raw_fd(), &raw const request) }.map(drop)
}

/// `TUNSETOFFLOAD`: the kernel may leave checksums to us and hand over TCP segments uncut.
#[expect(unsafe_code, reason = "an ioctl whose argument is a number")]
fn set_offload(file: &File) -> Result<(), Errno> {
    nix::ioctl_write_int_bad!(tunsetoffload, libc::TUNSETOFFLOAD);
    let flags = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    // SAFETY: the descriptor is open, and the argument is no pointer.
    unsafe { tunsetoffload(file.as_raw_fd(), flags.cast_signed()) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_netstack::Offload;

    #[test]
    fn a_super_segment_is_described_to_the_kernel() {
        let tcp =
            Offload { checksum_start: 20, checksum_offset: 16, header_len: 40, segment_size: Some(1460) };
        let bytes = header(&Transmit { len: 50_000, offload: Some(tcp) }, 4);
        assert_eq!(bytes[..2], [NEEDS_CHECKSUM, GSO_TCPV4]);
        let numbers: Vec<u16> =
            bytes[2..].chunks(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect();
        assert_eq!(numbers, [40, 1460, 20, 16]);
        assert_eq!(header(&Transmit { len: 50_000, offload: Some(tcp) }, 6)[1], GSO_TCPV6);
        assert_eq!(header(&Transmit { len: 64, offload: None }, 4), [0; HEADER]);
    }

    #[test]
    fn a_name_that_the_kernel_cannot_use_is_refused_before_it_is_asked() {
        for name in ["", "a/b", "..", "sixteen-bytes-xx", "tab\t", "a%d"] {
            assert!(matches!(Tun::open(name), Err(TunError::Name { .. })), "{name:?}");
        }
    }
}
