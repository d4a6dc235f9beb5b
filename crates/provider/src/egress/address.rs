//! Which addresses belong to the world and which to us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of place an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Anybody's: may be reached without being listed.
    Public,
    /// Somebody's own network: an operator may list a host there, or the network.
    Inside(&'static str),
    /// Metadata services, groups, tunnels and everything else that no service of a provider lives at: only a
    /// network that the operator lists opens it.
    Special(&'static str),
}

use Class::{Inside, Special};

/// The class of an address. IPv4 that travels inside IPv6 (mapped, or translated by NAT64) is judged as what it
/// carries.
pub(crate) fn class(address: IpAddr) -> Class {
    match address.to_canonical() {
        IpAddr::V4(v4) => class_v4(v4),
        IpAddr::V6(v6) => class_v6(v6),
    }
}

fn class_v4(address: Ipv4Addr) -> Class {
    let bits = address.to_bits();
    V4.iter()
        .find(|(base, length, _)| covers_v4(*base, *length, bits))
        .map_or(Class::Public, |(_, _, class)| *class)
}

fn class_v6(address: Ipv6Addr) -> Class {
    let bits = address.to_bits();
    if covers_v6(NAT64, 96, bits) {
        let [.., a, b, c, d] = address.octets();
        return class_v4(Ipv4Addr::new(a, b, c, d));
    }
    V6.iter()
        .find(|(base, length, _)| covers_v6(*base, *length, bits))
        .map_or(Special("not a global unicast address"), |(_, _, class)| *class)
}

fn covers_v4(base: Ipv4Addr, length: u32, bits: u32) -> bool {
    let shift = 32 - length;
    (base.to_bits() ^ bits).checked_shr(shift).unwrap_or(0) == 0
}

fn covers_v6(base: Ipv6Addr, length: u32, bits: u128) -> bool {
    let shift = 128 - length;
    (base.to_bits() ^ bits).checked_shr(shift).unwrap_or(0) == 0
}

const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// First match wins, so a metadata service stands before the network that contains it.
const V4: &[(Ipv4Addr, u32, Class)] = &[
    (Ipv4Addr::new(169, 254, 169, 254), 32, Special("a metadata service")),
    (Ipv4Addr::new(169, 254, 170, 2), 32, Special("a metadata service")),
    (Ipv4Addr::new(100, 100, 100, 200), 32, Special("a metadata service")),
    (Ipv4Addr::new(168, 63, 129, 16), 32, Special("a metadata service")),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Inside("a loopback address")),
    (Ipv4Addr::new(10, 0, 0, 0), 8, Inside("a private address")),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Inside("a private address")),
    (Ipv4Addr::new(192, 168, 0, 0), 16, Inside("a private address")),
    (Ipv4Addr::new(100, 64, 0, 0), 10, Inside("a carrier's shared address")),
    (Ipv4Addr::new(169, 254, 0, 0), 16, Special("a link-local address")),
    (Ipv4Addr::new(0, 0, 0, 0), 8, Special("an unspecified address")),
    (Ipv4Addr::new(192, 0, 0, 0), 24, Special("a protocol assignment")),
    (Ipv4Addr::new(192, 0, 2, 0), 24, Special("a documentation address")),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Special("a documentation address")),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Special("a documentation address")),
    (Ipv4Addr::new(192, 88, 99, 0), 24, Special("a 6to4 relay")),
    (Ipv4Addr::new(198, 18, 0, 0), 15, Special("a benchmarking address")),
    (Ipv4Addr::new(224, 0, 0, 0), 4, Special("a multicast address")),
    (Ipv4Addr::new(255, 255, 255, 255), 32, Special("the broadcast address")),
    (Ipv4Addr::new(240, 0, 0, 0), 4, Special("a reserved address")),
];

/// What matches no row is outside 2000::/3 and belongs to nobody in the world.
const V6: &[(Ipv6Addr, u32, Class)] = &[
    (Ipv6Addr::LOCALHOST, 128, Inside("a loopback address")),
    (Ipv6Addr::UNSPECIFIED, 128, Special("an unspecified address")),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128, Special("a metadata service")),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128, Special("a metadata service")),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, Inside("a unique local address")),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, Special("a link-local address")),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, Special("a site-local address")),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, Special("a multicast address")),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, Special("a local NAT64 address")),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, Special("a Teredo address")),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, Special("a documentation address")),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, Special("a protocol assignment")),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, Special("a 6to4 address")),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, Special("a documentation address")),
    (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3, Class::Public),
];
