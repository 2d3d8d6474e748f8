//! The control socket: its frames, its client and the hand-over of mounts; and what bounds the clients of
//! any socket.

mod client;
mod deadline;
mod error;
mod frame;
mod hand_over;
mod places;

pub use client::{ask, connect, figures, is_owned, owner, status, wait_until_unmounted};
pub use deadline::DeadlineStream;
pub use error::ControlError;
pub use frame::{
    DATA, ERROR, FAILURE, HAND_OVER, LIMIT, PROGRESS, REPORT, REQUEST, SOCKET, VERSION, Version,
    at_socket, receive_rest, send,
};
pub use hand_over::{HandOver, HandedOver};
pub use places::{Place, Places};
