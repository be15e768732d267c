//! The control API: the only place that knows the wire format.
