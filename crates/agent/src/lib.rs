//! The device: TUN, routes, enrolment, carrier, local control socket.
