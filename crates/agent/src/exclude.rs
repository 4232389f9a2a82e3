//! Networks without some addresses: what is captured must never hold the edge's own address, or the agent's connection
//! would be routed into itself.

use std::net::IpAddr;

use ipnet::IpNet;

/// The fewest networks that together are `network` without `addresses`, in order.
///
/// Each address inside costs at most as many networks as the family has bits.
pub(crate) fn exclude(network: IpNet, addresses: &[IpAddr]) -> Vec<IpNet> {
    let mut left = Vec::new();
    split(network, addresses, &mut left);
    left
}

fn split(network: IpNet, addresses: &[IpAddr], left: &mut Vec<IpNet>) {
    if !addresses.iter().any(|address| network.contains(address)) {
        left.push(network);
    } else if let Ok(halves) = network.subnets(network.prefix_len() + 1) {
        // A network of one address has no halves: it is left out.
        for half in halves {
            split(half, addresses, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(network: &str, addresses: &[&str], expected: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let left: Vec<String> =
            exclude(network.parse().unwrap(), &addresses).iter().map(ToString::to_string).collect();
        assert_eq!(left, expected);
    }

    #[test]
    fn an_address_outside_changes_nothing() {
        check("10.0.0.0/8", &["192.0.2.1", "2001:db8::1"], &["10.0.0.0/8"]);
        check("10.0.0.0/8", &[], &["10.0.0.0/8"]);
    }

    #[test]
    fn an_address_inside_splits_the_network_around_it() {
        check("10.0.0.0/30", &["10.0.0.2"], &["10.0.0.0/31", "10.0.0.3/32"]);
        check("10.0.0.0/30", &["10.0.0.0", "10.0.0.3"], &["10.0.0.1/32", "10.0.0.2/32"]);
        check("2001:db8::/126", &["2001:db8::1"], &["2001:db8::/128", "2001:db8::2/127"]);
    }

    #[test]
    fn a_network_of_the_address_alone_is_left_out() {
        check("192.0.2.1/32", &["192.0.2.1"], &[]);
        check("2001:db8::1/128", &["2001:db8::1"], &[]);
    }

    fn networks() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u32>(), 0_u8..=32)
                .prop_map(|(address, len)| IpNet::new(IpAddr::V4(address.into()), len).unwrap().trunc()),
            (any::<u128>(), 0_u8..=128).prop_map(|(address, len)| IpNet::new(
                IpAddr::V6(address.into()),
                len
            )
            .unwrap()
            .trunc()),
        ]
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_network_without_the_addresses(
            network in networks(),
            inside in proptest::collection::vec(any::<u128>(), 0..4),
            probe in any::<u128>(),
        ) {
            let at = |bits: u128| match network {
                IpNet::V4(network) => {
                    let host = u32::try_from(bits & u128::from(u32::from(network.hostmask()))).unwrap();
                    IpAddr::V4((u32::from(network.network()) | host).into())
                }
                IpNet::V6(network) => {
                    IpAddr::V6((u128::from(network.network()) | bits & u128::from(network.hostmask())).into())
                }
            };
            let excluded: Vec<IpAddr> = inside.iter().map(|bits| at(*bits)).collect();
            let left = exclude(network, &excluded);
            for address in &excluded {
                prop_assert!(left.iter().all(|part| !part.contains(address)));
            }
            let probe = at(probe);
            prop_assert_eq!(left.iter().filter(|part| part.contains(&probe)).count(), usize::from(!excluded.contains(&probe)));
            prop_assert!(left.iter().all(|part| network.contains(part)));
        }
    }
}
