//! Every way in, decide, route, dial through a tunnel, record.
