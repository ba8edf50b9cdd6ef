"""Every fail point of the manager: which manager passes it, and on which way of a migration."""

SOURCE_FORWARD = [
    "manager.saga.after_request",
    "manager.saga.before_state",
    "manager.saga.after_state",
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
]
DESTINATION_FORWARD = [
    "manager.reservation.before_reserve",
    "manager.reservation.after_reserve",
    "manager.reservation.before_confirm",
    "manager.reservation.after_confirm",
    "manager.handover.before_record",
    "manager.handover.after_record",
    "manager.handover.after_activate",
    "manager.handover.after_owned",
    "manager.handover.after_start",
]
SOURCE_RETURNING = [
    "manager.saga.after_relinquished",
    "manager.saga.in_taking_back",
    "manager.saga.after_taking_back",
    "manager.saga.after_unhold",
    "manager.saga.before_state",
    "manager.saga.after_state",
]
DESTINATION_RETURNING = [
    "manager.handover.before_relinquish",
    "manager.handover.after_relinquish",
    "manager.janitor.after_owed_call",
]
SOURCE_BACK = [
    "manager.saga.after_cancel",
    "manager.saga.after_undo",
    "manager.saga.before_state",
    "manager.saga.after_state",
]
DESTINATION_BACK = [
    "manager.reservation.before_release",
    "manager.reservation.after_release",
    "manager.janitor.after_owed_call",
]
ELSEWHERE = [
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
    "manager.saga.after_resolve",
    "manager.resolutions.after_decided",
]
"""Tested with the publisher, in test_broker_burst.py, test_accounts.py, test_evacuation.py,
test_metering.py, and with ResolveMigration.
"""
