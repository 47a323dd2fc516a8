//! What a broker is: one suite of rules, each a case, run against every broker. A difference between
//! brokers is a bug, or is named in `conformance/fixture.rs`.
//!
//! RabbitMQ is taken from `GARENNE_TEST_AMQP`; without it its cases are skipped with a note, unless
//! `GARENNE_TEST_REQUIRE_AMQP=1` forbids that.

#[path = "support/version.rs"]
mod version;

/// The cases.
mod conformance {
    pub(crate) mod broadcasts;
    pub(crate) mod browsing;
    pub(crate) mod carrying;
    pub(crate) mod delays;
    pub(crate) mod fixture;
    pub(crate) mod joins;
    pub(crate) mod leases;
    pub(crate) mod load;
    pub(crate) mod queues;
    pub(crate) mod replies;
    pub(crate) mod routing;
    pub(crate) mod settling;
}

/// One test for each case, on a broker of this kind.
macro_rules! tests {
    ($kind:ident: $($area:ident { $($case:ident)* })*) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            use crate::conformance::{$area, fixture};
            let Some(f) = fixture::Fixture::open(fixture::Kind::$kind).await else {
                return;
            };
            $area::$case(&f).await;
            f.clean().await;
        }
    )*)*};
}

/// All cases on a broker of this kind. (One that is missing here is dead code, and so an error.)
macro_rules! suite {
    ($kind:ident) => {
        tests! { $kind:
            carrying {
                a_message_sent_before_any_consumer_waits_for_one
                a_first_delivery_says_where_it_comes_from
                properties_arrive_as_they_were_sent
                absent_properties_arrive_absent
                headers_of_every_json_type_arrive_unchanged
                an_empty_body_arrives_empty
                a_body_of_a_mebibyte_arrives_whole
                a_binary_body_and_its_content_type_are_not_touched
                queue_names_may_be_unicode
                queue_names_may_have_200_bytes
                queue_names_that_amqp_refuses_are_errors
            }
            settling {
                one_slot_takes_messages_in_the_order_of_their_arrival
                no_more_than_the_slots_are_unsettled
                a_consumer_may_be_allowed_more_and_less
                an_acknowledged_message_never_comes_again
                a_released_message_returns_at_no_cost
                a_released_message_is_delivered_again
                a_dropped_delivery_comes_again
                what_a_dropped_consumer_has_not_read_goes_to_another
                a_delivery_outlives_its_consumer
                a_delivery_can_be_released_after_its_consumer_is_gone
                an_ack_publishes_what_goes_first
                a_message_stays_if_what_goes_first_cannot_be_stored
                a_retry_comes_again_after_its_delay
                a_copy_says_how_often_its_message_came_back
                two_consumers_share_a_queue_without_doubles
                what_was_acknowledged_just_before_the_close_never_comes_again
                unsettled_deliveries_of_a_closed_connection_come_again
                a_closed_broker_does_nothing_more
                a_release_after_the_close_is_an_error_too
                a_consumer_gives_service_again_when_its_deleted_queue_is_back
            }
            delays {
                a_delay_of_1_ms_is_kept
                a_delay_of_30_ms_is_kept
                a_delay_of_250_ms_is_kept
                a_delay_of_1200_ms_is_kept
                a_long_delay_does_not_hold_up_a_short_one
                a_waiting_consumer_is_woken_by_a_shorter_delay
                a_delayed_message_is_not_ready
                a_delayed_message_is_ready_once_it_is_due_without_a_consumer
                delayed_messages_are_counted
                a_delayed_message_arrives_as_it_was_sent
                a_delayed_message_to_an_exchange_reaches_its_queues
                a_hundred_mixed_delays_are_all_kept
            }
            queues {
                declaring_twice_changes_nothing
                a_queue_that_exists_with_other_settings_is_used_as_it_is
                an_exchange_that_exists_with_another_kind_is_used_as_it_is
                declaring_again_adds_bindings
                each_queue_has_one_for_its_dead_letters
                higher_priorities_come_first
                one_priority_keeps_the_order_of_arrival
                a_priority_above_the_highest_counts_as_the_highest
                embedded_brokers_prioritise_every_queue
                the_depth_counts_ready_messages_and_consumers
                the_depth_of_no_queue_is_an_error
                deleting_takes_a_queue_and_all_that_is_in_it
                deleting_no_queue_is_no_error
                exclusive_queues_each_get_a_copy
                an_exclusive_queue_goes_with_its_consumer
            }
            browsing {
                a_look_shows_what_is_ready_in_its_order
                a_look_takes_nothing
                looking_often_costs_nothing
                a_dropped_look_takes_nothing
                what_is_shown_can_be_taken_off
                what_is_shown_can_be_moved
                what_is_shown_stays_if_its_copy_cannot_be_stored
                two_looks_take_each_message_once
                a_look_at_no_queue_is_an_error_that_names_it
            }
            routing {
                no_queue_of_that_name_is_an_error_that_names_it
                a_missing_exchange_is_an_error_that_names_it
                an_exchange_without_a_matching_binding_is_an_error
                an_exchange_without_bindings_is_an_error
                a_direct_exchange_compares_the_key
                a_fanout_exchange_ignores_the_key
                a_topic_exchange_matches_words
                a_headers_exchange_compares_headers
                a_queue_gets_one_copy_however_many_bindings_match
                a_queue_may_be_bound_to_several_exchanges
                a_delivery_knows_its_exchange_and_key
                a_routing_key_longer_than_amqp_allows_is_an_error
            }
            replies {
                a_reply_reaches_its_address_unchanged
                thousands_of_replies_all_arrive
                a_reply_to_nobody_is_no_error
                replies_end_with_their_broker
                a_cancellation_reaches_every_worker
                a_cancellation_is_known_to_workers_that_start_later
                what_is_not_cancelled_is_not_reported
                a_far_call_that_is_cancelled_is_told_of_at_once_too
            }
            joins {
                a_body_goes_out_with_the_last_part
                a_body_is_in_its_queue_when_the_last_part_is_confirmed
                the_same_part_counts_once
                a_part_without_a_correlation_is_known_by_its_id
                parts_arrive_as_they_were_sent
                a_part_after_the_firing_fires_nothing
                a_join_fires_early_when_asked
                a_check_fires_nothing_that_is_not_complete
                a_join_knows_how_many_parts_it_waits_for
                parts_stay_until_the_join_is_closed
                many_parts_are_all_there
                no_more_parts_are_read_than_wanted
                a_join_that_is_gone_is_no_error
                opening_twice_changes_nothing
                a_join_that_fired_without_parts_is_not_opened_anew
                a_closed_join_can_be_opened_anew
                a_body_arrives_as_it_was_parked
                a_delay_counts_from_the_firing
                an_acknowledgement_brings_the_last_part
                a_member_that_comes_again_fires_nothing_twice
                names_of_no_join_are_ignored
                a_body_must_have_a_queue
                a_body_whose_queue_was_deleted_gets_a_new_one
                two_hundred_joins_each_fire_once
            }
            leases {
                a_lease_is_held_by_one_at_a_time
                a_lease_keeps_its_value
                a_lease_without_a_value_has_none
                a_value_of_a_mebibyte_is_kept_whole
                a_dropped_lease_goes_to_the_next
                who_gives_up_leaves_the_queue
                who_gives_up_at_once_holds_nothing
                leases_have_names_of_their_own
                increments_of_many_holders_are_all_counted
                the_lease_of_a_closed_connection_goes_to_the_next
                a_closed_broker_has_lost_its_leases
            }
            broadcasts {
                an_announcement_reaches_all_who_listen
                a_reply_reaches_only_its_listener
                that_nobody_listens_is_no_error
                what_was_announced_before_is_not_heard
                a_name_to_be_controlled_by_is_given_once
                another_prefix_is_another_channel
                who_listens_may_be_heard
                a_slow_listener_holds_up_nobody
                listeners_end_with_their_broker
            }
            load {
                two_thousand_publishes_at_once_are_all_stored
                publishes_of_many_tasks_are_all_stored
                each_publish_gets_its_own_verdict
                eight_consumers_take_each_message_once
                released_and_dropped_deliveries_are_not_lost_among_many
            }
        }
    };
}

mod memory {
    suite!(Memory);
}

#[cfg(feature = "sqlite")]
mod sqlite {
    suite!(Sqlite);
}

#[cfg(feature = "sqlite")]
mod sqlite_two_processes {
    suite!(SqliteTwoConnections);
}

#[cfg(feature = "amqp")]
mod rabbitmq_quorum {
    suite!(RabbitQuorum);
}

#[cfg(feature = "amqp")]
mod rabbitmq_classic {
    suite!(RabbitClassic);
}
