"""Every fail point of the services, and by which kind of migration it is passed."""

ON_THE_WAY = {
    "tokyo-manager": [
        "manager.saga.after_request",
        "manager.saga.after_hold",
        "manager.saga.after_reserve",
        "manager.saga.before_start_transfer",
        "manager.saga.after_start_transfer",
        "manager.saga.after_confirm",
        "manager.saga.before_commit",
        "manager.saga.in_commit",
        "manager.saga.after_commit",
        "manager.saga.after_hand_over",
        "manager.saga.after_retire",
        "manager.saga.before_state",
        "manager.saga.after_state",
    ],
    "osaka-manager": [
        "manager.reservation.before_reserve",
        "manager.reservation.after_reserve",
        "manager.reservation.before_confirm",
        "manager.reservation.after_confirm",
        "manager.handover.before_record",
        "manager.handover.after_record",
        "manager.handover.after_activate",
        "manager.handover.after_owned",
    ],
    "tokyo-agent": [
        "agent.attempt.session_opened",
        "agent.attempt.before_stop",
        "agent.attempt.after_stop",
        "agent.sending.frame_sent",
        "agent.attempt.completed",
    ],
    "osaka-agent": [
        "agent.receiving.offer_answered",
        "agent.receiving.frame_written",
        "agent.settling.recorded",
        "agent.receiving.flushed",
    ],
}
"""Fail points that a migration passes on its way to success, by the process that passes them."""

ON_THE_WAY_BACK = {
    "tokyo-manager": [
        "manager.saga.after_cancel",
        "manager.saga.after_undo",
    ],
    "osaka-manager": [
        "manager.reservation.before_release",
        "manager.reservation.after_release",
        "manager.janitor.after_owed_call",
    ],
}
"""Fail points of a migration that is cancelled while it copies."""

ELSEWHERE = {
    "manager.publisher.after_lease",
    "manager.reservation.before_hold",
    "manager.reservation.after_hold",
    "manager.accounts.after_closed",
    "manager.accounts.after_post",
    "manager.accounts.after_rated",
    "manager.accounts.in_post",
    "manager.metering.after_read",
    "manager.metering.in_record",
    "manager.metering.after_record",
    "manager.evacuation.after_request",
    "manager.evacuation.after_cancel",
    "manager.evacuation.after_claim",
    "manager.evacuation.after_start",
    "directory.store.before_commit",
    "directory.store.after_commit",
    "directory.etcd.after_commit",
    # A shelf's machines are off, and it takes whatever has arrived.
    "manager.handover.after_start",
    "manager.handover.before_relinquish",
    "manager.handover.after_relinquish",
    "manager.saga.after_relinquished",
    "manager.saga.in_taking_back",
    "manager.saga.after_taking_back",
    "manager.saga.after_unhold",
    # An operator's word.
    "manager.saga.after_resolve",
    "manager.resolutions.after_decided",
    "agent.attempt.after_round",
    # A policy's moves: tests/integration/test_broker_automation.py.
    "broker.automation.after_record",
    "broker.automation.after_ask",
    "broker.automation.before_finish",
    # An operator's hooks.
    "agent.hooks.before_due",
}
"""Fail points that no migration of a machine that is off passes; directory, manager, broker, lab
and evacuations have tests of their own for them.
"""

PASSES = {"manager.saga.before_state": 4, "manager.saga.after_state": 4}
"""How often a migration that succeeds passes a point, where that is more than once: each time is
another transition of the saga."""
