"""What README and guides promise of logging, limits, retries, deployment and types, with the tests that execute it.

For each page: the beginning of what is promised, or words that it cannot do without, as they stand there; and the tests, as
`folder/file.py::test`. Whoever changes a sentence looks whether its tests still say the same; whoever adds one adds its test.
"""

from __future__ import annotations

from typing import Final

DEPLOYED: Final = ("deploys/test_changes.py::test_services_first", "deploys/test_changes.py::test_workers_first")
EXAMPLES: Final = "docs/test_guides.py::test_the_examples_run"
TABLES: Final = "docs/test_limits.py::test_the_guide_states_every_limit_as_it_is"

RETRIES: Final[dict[str, tuple[str, ...]]] = {
    "Without a policy nothing follows: the run is `failed`": ("test_retry.py::test_never_is_one_attempt",),
    "`max_attempts` counts the first one": ("worker/test_executor.py::test_the_policy_decides_by_attempt_and_type", EXAMPLES),
    "`exponential` waits `delay`, then twice as long each time, up to `max_delay`": (
        *("test_retry.py::test_fixed_and_exponential_delays", "test_retry.py::test_jitter_spreads_around_the_delay"),
    ),
    "`retry_on=(…)` retries these errors alone, `give_up_on=(…)` never these": (
        "test_retry.py::test_by_type_and_its_subclasses",
    ),
    "The wait for the next attempt is a row in the database": (
        "promises/test_retries.py::test_the_wait_for_the_next_attempt_survives_a_restart_of_everything",
    ),
    "`RunFailed` has the original error's type, message and traceback text": (
        "sdk/test_handle.py::test_a_failure_is_raised_with_the_original_error",
    ),
    "`aiki runs show RUN` tells every attempt": ("cli/test_dev.py::test_runs_are_listed_shown_retried_and_cancelled",),
    "`aiki runs retry`, has the same run go on; `rerun` makes a new run": (
        *("api/test_runs.py::test_cancel_retry_and_rerun", "sdk/test_handle.py::test_rerun_is_another_handle"),
    ),
    "A task can say itself when it is to run again, whatever its policy says; `max_attempts` does not limit that": (
        *("promises/test_values.py::test_asking_for_another_attempt_is_not_limited_by_the_policy", EXAMPLES),
    ),
    "at once the first time, then with growing pauses": (
        "promises/test_retries.py::test_after_a_crash_it_goes_on_at_once_and_then_after_growing_pauses",
    ),
    "never to others that its process had fetched, and names the signal": (
        "worker/test_dying.py::test_a_killed_child_is_named_and_only_the_executing_run_is_charged",
    ),
    "After `max_crashes` (3) the run is `dead`": (
        "lifecycle/test_reports.py::test_crashes_are_charged_and_kill_the_run_after_the_limit",
        "system/test_crash_children.py::test_a_task_that_kills_its_process_is_dead_after_three_and_its_neighbours_complete",
    ),
    "`time_limit` is a failed attempt, and the policy decides": ("worker/test_execution.py::test_hard_limits",),
    "is dispatched anew, uncharged": ("lifecycle/test_reports.py::test_a_run_that_nobody_holds_is_dispatched_anew_uncharged",),
    "If that happens eight times in a row": (
        "promises/test_retries.py::test_a_run_may_be_lost_eight_times_at_once_and_sixty_times_in_all",
    ),
    "it waits for its next turn, from one second up to a minute": (
        "lifecycle/test_reports.py::test_a_run_that_is_lost_over_and_over_waits_ever_longer_and_not_forever",
    ),
    "is it `dead` with the error `NoProgress`": (
        "promises/test_retries.py::test_a_run_may_be_lost_eight_times_at_once_and_sixty_times_in_all",
    ),
    "begins the retry policy anew: the first attempt after it counts as the first": (
        *("retries/test_policy_anew.py::test_attempts_and_pauses_begin_anew",),
        "retries/test_policy_anew.py::test_a_step_has_its_policy_anew",
        "retries/test_policy_anew.py::test_a_child_has_its_policy_anew_with_its_parent",
    ),
    "A retry takes the run's expiry off": ("retries/test_policy_anew.py::test_a_retry_takes_the_expiry_off",),
    "`is_last_attempt` is true where the policy allows none after this one": (
        *("retries/test_policy_anew.py::test_without_a_policy_each_attempt_is_the_last", EXAMPLES),
        "retries/test_policy_anew.py::test_a_workflow_has_its_own_policy_anew_and_knows_its_last_attempt",
    ),
    "A crash is none of the attempts that the policy counts": ("retries/test_policy_anew.py::test_crashes_are_counted_apart",),
    "`current_run()` is a run that nobody has recorded, in its first attempt under the task's policy": (
        "retries/test_policy_anew.py::test_a_task_that_is_called_directly_sees_a_run",
    ),
    "its own policy decides when the *step* is tried again: durably, holding no worker meanwhile": (
        *("replay/test_steps.py::test_retries_with_a_delay_hold_nothing",),
        "replay/test_steps.py::test_the_attempts_of_a_step_survive_the_process",
    ),
    "`current_run().attempt` is then the step's": (
        "worker/test_steps.py::test_each_step_has_its_own_key_and_attempt_plain_or_async",
    ),
    "it goes on *from the step that failed*, with everything before it kept": (
        "storage/test_workflow_retry.py::test_a_workflows_own_retry_goes_on_from_where_it_failed_after_a_while",
        "storage/test_workflow_retry.py::test_a_retry_goes_on_from_the_step_that_failed",
    ),
}

LIMITS: Final[dict[str, tuple[str, ...]]] = {
    "A test holds these tables against the code": (TABLES,),
    "it never ends a process or the session of anybody else": (
        "system/test_large_values.py::test_a_result_that_no_message_can_carry_fails_its_run_and_nobody_elses",
        "worker/test_parts.py::test_a_refused_message_ends_the_session_and_is_sent_again",
    ),
    "`aiki doctor` compares `AIKI_MAX_MESSAGE` with what RabbitMQ takes": (
        "system/test_large_values.py::test_doctor_compares_what_is_allowed_with_what_the_broker_takes",
    ),
    "An input that no message can carry is refused at the call": (
        "system/test_large_values.py::test_an_input_that_no_message_can_carry_is_refused_at_the_call",
        "client/test_wire.py::test_too_large_an_input_is_refused",
    ),
    "A result that is larger than `AIKI_MAX_PAYLOAD`, or that no message can carry, fails its run": (
        *("system/test_behaviour_payloads.py::test_a_result_over_the_limit_fails_its_run_readably",),
        "worker/test_sizes.py::test_a_report_that_no_message_can_carry_says_that_its_run_fails",
    ),
    "each process loses one session over it, and keeps to what RabbitMQ said": (
        "system/test_large_values.py::test_a_broker_that_takes_less_than_it_is_held_to_is_believed",
    ),
    "where each quote and each backslash takes two bytes": (
        "promises/test_values.py::test_quotes_and_backslashes_take_two_bytes_in_a_message",
    ),
    "what is larger goes as several messages, in order": (
        "worker/test_sizes.py::test_steps_are_cut_into_parts_in_their_order",
    ),
    "a larger fan-out starts part by part": (
        "system/test_large_values.py::test_a_fan_out_of_large_inputs_is_reported_in_parts",
    ),
    "runs that one control message names, snapshots of revocations included": (
        "orchestrator/test_repair.py::test_a_snapshot_is_of_the_workers_queues_and_comes_in_pages",
    ),
    "travels without its largest values; the child fetches one": (
        *("storage/test_dispatching.py::test_of_a_long_history_the_largest_values_stay_outside",),
        "system/test_large_values.py::test_large_results_of_its_own_steps_are_fetched_in_the_replay",
    ),
    "the same while a worker of an earlier release is alive, which cannot fetch": (
        "storage/test_dispatching.py::test_a_history_goes_whole_while_a_worker_of_an_earlier_release_is_there",
    ),
    "events that a run does not wait for: number": (
        "storage/test_workflow_control.py::test_events_that_nobody_waits_for_have_a_limit_in_number",
    ),
    "beyond it `send_event` raises `RunConflict` (409) with the numbers": (
        "storage/test_workflow_control.py::test_events_that_nobody_waits_for_have_a_limit_in_bytes_that_the_sender_is_told",
    ),
    "inputs and histories that one transaction loads for dispatches": (
        "storage/test_dispatching.py::test_what_is_too_much_at_once_is_taken_part_by_part",
    ),
    "An orchestrator keeps within 300 MiB of memory": (
        *("system/test_memory.py::test_large_results_that_wait_for_an_orchestrator",),
        "system/test_memory.py::test_workflows_with_long_histories_that_go_on_together",
    ),
}

TYPES: Final[dict[str, tuple[str, ...]]] = {
    "what is accepted comes back equal, in every process; all else is refused where it is given": (
        *("values/test_generated.py::test_what_is_accepted_comes_back_equal",),
        "values/test_rules.py::test_what_would_not_come_back_is_refused_with_its_place_and_a_way_out",
    ),
    "integers of any size, NaN and the infinities": ("test_codec.py::test_numbers_that_json_cannot_say_come_back",),
    "`datetime` (with its `ZoneInfo` and `fold`)": (
        *("values/test_rules.py::test_flags_zones_and_folds_are_kept", "test_codec.py::test_a_named_zone_is_kept"),
    ),
    "without `__init__` or `__post_init__`; pydantic models and attrs classes are checked by their own validators": (
        *("values/test_rules.py::test_a_dataclass_is_not_made_twice",),
        "values/test_rules.py::test_pydantic_and_attrs_ask_their_own_validators",
    ),
    "other subclasses of built-in types": (
        "values/test_rules.py::test_subclasses_are_carried_as_their_base_where_they_equal_it",
    ),
    "Classes must occur in the signature of a task or a workflow": (
        "values/test_rules.py::test_classes_are_declared_by_what_occurs_in_signatures",
    ),
    "no message can make a process import, look up or construct anything that the application has not named": (
        "values/test_rules.py::test_a_message_makes_nobody_look_import_or_construct",
    ),
    "A named tuple that no signature names comes back as a tuple": (
        "values/test_rules.py::test_a_named_tuple_that_a_signature_names_is_restored",
    ),
    "is tried on each value: one that does not come back equal is refused": (
        *("promises/test_values.py::test_encode_and_decode_are_tried_on_each_value",),
        "values/test_rules.py::test_a_registered_type_is_tried_when_it_is_encoded",
    ),
    "Text in `Secret` types and the like is not written down, so it is refused": (
        "promises/test_values.py::test_what_hides_its_text_is_refused_and_not_written_down",
    ),
    "A result that cannot be carried fails its run **after the work was done**": (
        "worker/test_execution.py::test_results_that_cannot_be_carried",
    ),
    "The error says so, and no retry policy is asked": (
        "promises/test_values.py::test_a_result_that_cannot_be_carried_is_not_tried_again",
    ),
    "an input is at most `AIKI_MAX_PAYLOAD` bytes": ("test_codec.py::test_the_limit_is_on_the_encoded_size", TABLES),
    "no time-out of the broker ends it or starts it a second time": (
        "system/test_crash_consumer_timeout.py::test_a_run_longer_than_the_consumer_timeout_runs_once",
    ),
    "`soft_time_limit` raises `SoftTimeLimitExceeded` in the task": (
        *("worker/test_execution.py::test_soft_limits", "worker/test_users_code.py::test_a_soft_limit_is_raised_again"),
    ),
    "so an `except Exception` of yours does not swallow it": (
        "worker/test_users_code.py::test_a_soft_limit_is_not_swallowed_by_a_loop_that_goes_on",
    ),
    "An `async def` is cancelled instead: it meets `asyncio.CancelledError`": (
        "worker/test_users_code.py::test_an_asynchronous_task_that_swallows_its_soft_limit_meets_it_again",
    ),
    "are failures of that attempt like any other: its retry policy is asked": (
        "worker/test_users_code.py::test_the_policy_of_a_task_is_asked_about_whatever_it_raises",
    ),
    "A child has one event loop for its whole life": (
        "worker/test_users_code.py::test_tasks_and_the_steps_of_several_runs_share_one_loop",
    ),
    "`asyncio.get_event_loop()` gives that loop in plain ones": (
        "worker/test_users_code.py::test_a_plain_task_finds_a_loop_whatever_ran_before",
    ),
    "What an asynchronous task leaves running in it is cancelled": (
        "worker/test_executor.py::test_the_event_loop_outlives_what_breaks_out_of_it",
    ),
    "under decorators of yours that are plain functions: what they give is awaited": (
        "worker/test_users_code.py::test_what_a_wrapper_gives_is_awaited",
    ),
    "They are recorded in transactions of up to 1,000": ("sdk/test_task.py::test_many_are_enqueued_with_few_transactions",),
    "`resize.fn(...)` is always the plain function": ("sdk/test_task.py::test_a_task_is_called_as_a_function",),
}

LOGGING: Final[dict[str, tuple[str, ...]]] = {
    "`AIKI_LOG_FORMAT=json` makes each line one JSON object": (
        *("test_logs.py::test_a_json_line_says_what_when_and_who", "test_logs.py::test_every_command_heeds_the_variable"),
    ),
    "inside a run `run_id`, `task`, `attempt` and `step`": ("test_logs.py::test_inside_a_run_the_run_is_named",),
    "in the server `request_id`": ("api/test_logging.py::test_lines_of_a_request_carry_its_id",),
    "Passwords in URLs, bearer tokens and values named password, secret, token or API key are masked": (
        *("test_logs.py::test_secrets_are_masked", "test_logs.py::test_ordinary_text_is_left_as_it_is"),
    ),
    "An application that sets up logging itself when it is imported": (
        *("worker/test_log_lines.py::test_basic_config_is_kept", "worker/test_log_lines.py::test_basic_config_keeps_its_level"),
        "worker/test_log_lines.py::test_children_have_the_applications_set_up",
    ),
    "also where `dictConfig` silences all loggers that it does not name": (
        "worker/test_log_lines.py::test_a_dictionary_with_a_root_is_kept_and_ours_are_not_silenced_by_it",
    ),
    "an application that wants fewer of them gives the logger `aiki` a level": (
        "worker/test_log_lines.py::test_a_level_for_ours_that_the_application_chooses_counts_unless_the_worker_is_asked_for_another",
    ),
    "the worker adds its own, which writes what no handler of the application has taken": (
        *("worker/test_log_lines.py::test_what_a_handler_does_not_take_is_written_by_ours",),
        "worker/test_log_lines.py::test_a_dictionary_for_one_logger_alone_doubles_nothing",
    ),
    "the last 200 at level INFO and above": (
        *("storage/test_run_logs.py::test_the_last_ones_are_kept", "worker/test_run_log.py::test_only_what_a_run_says_is_kept"),
        "api/test_run_logs.py::test_logs_of_a_run",
    ),
    "so what a process said before it was killed is there": (
        "system/test_logs.py::test_what_runs_log_is_kept_whatever_becomes_of_them",
    ),
    "A run that logs nothing pays nothing": (
        "promises/test_logs.py::test_a_run_that_logs_nothing_leaves_nothing_to_be_reported",
    ),
    "`AIKI_RUN_LOGS=0` on the workers switches it off": ("system/test_logs.py::test_switched_off_nothing_is_reported",),
    "Lines of threads that your code starts are not a run's": (
        "promises/test_logs.py::test_lines_of_threads_are_a_runs_if_it_hands_them_the_context",
    ),
}

DEPLOYMENT: Final[dict[str, tuple[str, ...]]] = {
    "Those runs are parked (`stalled`": (
        *DEPLOYED,
        "system/test_basics.py::test_a_worker_that_lacks_the_definition_parks_the_run_until_one_has_it",
    ),
    "**Old and new workers side by side**": (
        *("system/test_behaviour_parking.py::test_runs_pass_a_worker_that_does_not_know_them_yet",),
        "system/test_behaviour_parking.py::test_a_deploy_in_the_wrong_order_loses_nothing",
    ),
    "Code that does not fit what the run has done stops it": (
        "deploys/test_changes.py::test_a_workflow_that_waits_goes_on_with_the_new_code",
        "storage/test_workflow_reports.py::test_code_that_does_not_fit_waits_for_another_worker_or_a_retry",
    ),
    "**TERM drains a worker**": ("worker/test_dying.py::test_warm_stop_finishes_what_runs_and_gives_back_the_rest",),
    "A second TERM, or QUIT, stops it at once": ("worker/test_dying.py::test_cold_stop_returns_what_ran_uncharged",),
    "`--drain-timeout` does the second by itself, before the platform kills": (
        "worker/test_strays.py::test_a_drain_that_lasts_too_long_ends_by_itself_and_charges_nobody",
    ),
    "No run fails because of a deploy": ("deploys/test_changes.py::test_there_are_enough_changes", *DEPLOYED),
    "| change | new service, old worker | queued run, new worker |": (
        "deploys/test_changes.py::test_the_guide_says_what_happens",
    ),
    "A restart is decided by `--live` alone": (
        *(
            "alive/test_judging.py::test_no_outage_outside_is_a_reason_to_start_anew",
            "alive/test_judging.py::test_what_fails_which_probe",
        ),
        "deploy/test_deploy.py::test_the_three_probes_ask_what_they_should",
    ),
    "No process of ours needs a directory to write to": (
        *("confined/test_confined.py::test_all_of_it_at_once",),
        "confined/test_confined.py::test_without_a_directory_for_its_files_it_says_so",
    ),
    "no root, no capabilities, a root file system that can only be read": (
        *("deploy/test_deploy.py::test_a_unit_has_the_least_rights", "deploy/test_deploy.py::test_compose_says_the_same"),
    ),
    "has a unit for each process": ("deploy/test_deploy.py::test_there_is_a_unit_for_each_process",),
    "has a Job for the migrations and Deployments for orchestrators, servers and workers": (
        "deploy/test_deploy.py::test_all_manifests_are_of_the_schema_and_are_listed",
    ),
    "Run two, on different machines": (
        *("orchestrator/test_loop.py::test_two_orchestrators_share_the_work_and_record_each_result_once",),
        "system/test_crash_orchestrator.py::test_orchestrators_killed_under_load_lose_nothing_and_start_nothing_twice",
    ),
    "harmless when several do it at once": ("storage/test_upgrading.py::test_two_upgrades_at_once",),
    "Versions are text, and live side by side": (
        *("sdk/test_workflow.py::test_versions_live_side_by_side", EXAMPLES),
        "system/test_behaviour_parking.py::test_two_versions_of_a_task_side_by_side_each_run_on_their_own_workers",
    ),
    "When version 1 is deleted too early, its runs are parked": (
        "storage/test_workflow_reports.py::test_a_version_that_no_worker_has_is_parked_and_goes_on_when_one_has_it",
    ),
    "what became due meanwhile is dispatched at once": (
        "promises/test_retries.py::test_the_wait_for_the_next_attempt_survives_a_restart_of_everything",
    ),
}

PROCESSES: Final[dict[str, tuple[str, ...]]] = {
    "**Nothing of an attempt survives its process**": (
        *(
            "worker/test_strays.py::test_nothing_of_an_attempt_survives_its_time_limit",
            "worker/test_leftovers.py::test_nothing_is_left",
        ),
        "worker/test_strays.py::test_nothing_survives_a_child",
    ),
    "goes on as long as the child lives: a pool of your library serves the next run, too": (
        "worker/test_strays.py::test_a_pool_lives_as_long_as_its_child",
    ),
    "a cancel or a soft time limit is raised in it, and it does not complete": (
        "worker/test_strays.py::test_what_a_cancelled_attempt_has_started_is_killed_and_the_child_replaced",
    ),
    "has started before it became the worker (`proxy & exec aiki-worker …`) is left alone": (
        "worker/test_strays.py::test_what_a_script_started_before_it_became_the_worker_stays",
    ),
    "**What a hook raises is the attempt's error**": (
        *("sdk/test_hooks.py::test_what_a_hook_raises_before_fails_the_attempt_and_the_task_does_not_begin",),
        "sdk/test_hooks.py::test_what_a_hook_raises_after_fails_the_attempt",
    ),
    "What a hook swallows was raised all the same": ("sdk/test_hooks.py::test_what_a_hook_swallows_was_raised_all_the_same",),
    "Soft time limits and cancels are not raised inside of hooks": (
        *("sdk/test_hooks.py::test_no_interrupt_is_raised_in_a_plain_hook",),
        "sdk/test_hooks.py::test_a_limit_that_comes_during_a_hook_is_raised_where_the_task_begins",
    ),
    "**drains** a worker: it takes nothing more": (
        "worker/test_dying.py::test_warm_stop_finishes_what_runs_and_gives_back_the_rest",
    ),
    "reach the supervisor alone, and no program that a task runs": (
        *("worker/test_dying.py::test_term_to_the_whole_group_is_a_warm_stop",),
        "worker/test_strays.py::test_a_program_that_a_task_runs_is_shielded_while_the_worker_drains",
    ),
    "an attempt charged**; exit code 3": (
        "worker/test_strays.py::test_a_drain_that_lasts_too_long_ends_by_itself_and_charges_nobody",
    ),
    "A worker that is killed all the same while it drains charges nobody either": (
        *("orchestrator/test_loop.py::test_a_run_of_a_worker_that_was_killed_while_it_drained_is_not_charged",),
        "worker/test_strays.py::test_children_that_the_platform_kills_while_the_worker_drains_charge_nobody",
    ),
}

README: Final[dict[str, tuple[str, ...]]] = {
    "`enqueue` succeeds all the same; runs are dispatched when it is back": (
        "system/test_crash_rabbit.py::test_what_is_enqueued_while_the_broker_is_down_runs_when_it_is_back",
    ),
    "its attempt names the signal or the exit code; what was only prefetched is not charged": (
        *("worker/test_dying.py::test_a_killed_child_is_named_and_only_the_executing_run_is_charged",),
        "worker/test_dying.py::test_exit_codes_and_signals_are_named",
    ),
    "the run is `dead` after `max_crashes` (3), and its neighbours go on": (
        "system/test_crash_children.py::test_a_task_that_kills_its_process_is_dead_after_three_and_its_neighbours_complete",
    ),
    "nobody executes it before it is known that nobody else does": (
        "worker/test_protocol.py::test_redelivered_is_not_executed_but_inquired_about",
    ),
    "the run waits (`stalled`) and goes on as soon as a worker that does comes": (
        "system/test_basics.py::test_a_worker_that_lacks_the_definition_parks_the_run_until_one_has_it",
    ),
    "it never starts, also across restarts; while it runs, it is interrupted": (
        "system/test_behaviour_cancel.py::test_cancelled_before_it_starts_it_never_runs_although_everything_restarts",
        "system/test_behaviour_cancel.py::test_cancelled_while_it_runs_it_is_interrupted",
    ),
    "or stops before anything new starts, naming what changed, and goes on once that is mended": (
        "system/test_workflow_basics.py::test_changed_code_stops_before_anything_starts_and_goes_on_once_it_is_mended",
    ),
    "it is parked, says so, and goes on when one comes": (
        "system/test_workflow_basics.py::test_a_version_that_no_worker_has_is_parked_and_goes_on_by_itself",
    ),
    "`retry` goes on from the step that failed, unless what was done has been compensated": (
        *("storage/test_workflow_retry.py::test_a_retry_goes_on_from_the_step_that_failed",),
        "storage/test_workflow_retry.py::test_what_was_compensated_or_cancelled_is_not_retried",
    ),
}

ELSEWHERE: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "docs/guides/getting-started.md": {
        "signature, checked by mypy and when it is called": (
            *("sdk/test_typing.py::test_mypy_reports_exactly_the_wrong_lines",),
            "sdk/test_task.py::test_wrong_arguments_raise_like_a_call",
        ),
        "`handle.retry()` has a failed, dead or cancelled run go on, under the same id": (
            "storage/test_applying.py::test_retry_takes_failed_dead_and_cancelled_runs_on_and_no_others",
        ),
    },
    "docs/guides/determinism.md": {
        "are silent while recorded steps are replayed, so each line comes once": (
            "replay/test_steps.py::test_the_log_and_progress_are_silent_while_replaying",
        ),
        "code between steps, defaults of parameters that are not given, retry policies, limits": (
            *("promises/test_steps.py::test_changed_policies_and_limits_are_no_part_of_what_a_step_is",),
            "replay/test_rule.py::test_defaults_are_not_filled_in_and_other_calls_are_others",
        ),
        "| a step inserted before, or between, recorded ones | the run stops before it, and says so |": (
            "replay/test_rule.py::test_an_insertion_is_caught",
        ),
        "| recorded steps called in another order | the same results; nothing runs again |": (
            "replay/test_rule.py::test_recorded_steps_may_be_reordered_among_themselves",
        ),
        "A run that stops is never lost and nothing was started in it": (
            "storage/test_workflow_reports.py::test_code_that_does_not_fit_waits_for_another_worker_or_a_retry",
        ),
    },
    "docs/guides/workflows.md": {
        "A step's own `retry`, `soft_time_limit` and `time_limit` hold for the step": (
            *("system/test_workflow_basics.py::test_a_step_that_runs_into_its_own_limit_is_retried_alone",),
            "replay/test_steps.py::test_the_soft_limit_of_a_step_is_met_as_an_error_and_that_of_the_workflow_is_not",
        ),
        "what was recorded before stays; a child that failed is retried too": (
            "storage/test_workflow_retry.py::test_a_retry_retries_all_children_that_have_failed",
        ),
        "copies what came before step 3 of its history": (
            "storage/test_workflow_retry.py::test_a_rerun_from_a_step_copies_what_came_before_it",
        ),
        "are those of one call of its function, between two waits": (
            "system/test_workflow_leaving.py::test_a_soft_limit_between_steps_is_recorded_and_raised_there_again",
        ),
        "and a fan-out of more than that fails before its first run starts": (
            "system/test_large_values.py::test_a_fan_out_beyond_the_limit_of_a_history_is_refused_before_its_first_run_starts",
        ),
        "A history has a limit, 25,000 steps or 8 MiB": (
            *("replay/test_rule.py::test_the_limit_of_steps_is_told_early_and_with_numbers", TABLES),
            "replay/test_rule.py::test_the_limit_of_bytes_counts_results_inputs_and_arrivals",
        ),
    },
    "docs/guides/transactions.md": {
        "has it tried again, under its retry policy from the beginning, with the input that it has": (
            *("retries/test_sweep.py::test_it_is_retried_with_its_policy_anew_and_audited",),
            "retries/test_sweep.py::test_the_sweep_of_the_guide_has_a_failed_payment_tried_again",
        ),
        "A workflow whose compensations have run is given as it is": (
            "retries/test_sweep.py::test_a_workflow_that_was_compensated_is_given_as_it_is",
        ),
    },
    "docs/guides/http-api.md": {
        "Each key, user, or local client may make `AIKI_RATE_LIMIT` requests a second": (
            "promises/test_limits.py::test_each_principal_may_ask_so_often_a_second_and_twice_as_often_at_once",
            "api/test_idempotency.py::test_who_asks_too_much_is_told_when_to_ask_again",
        ),
        "`request_id`, which the server's log has too": ("api/test_logging.py::test_lines_of_a_request_carry_its_id",),
    },
    "docs/guides/operating.md": {
        "`drain` and `stop` finish what runs": ("system/test_operating.py::test_workers_drain_and_stop",),
    },
    "docs/guides/operations.md": {
        "No password appears in a log line or an error": (
            *("worker/test_parts.py::test_passwords_are_not_shown",),
            "cli/test_commands.py::test_errors_are_short_and_keep_passwords",
        ),
    },
}

PROMISES: Final = {
    **ELSEWHERE,
    "README.md": README,
    "docs/guides/deployment.md": DEPLOYMENT,
    "docs/guides/limits.md": LIMITS,
    "docs/guides/monitoring.md": LOGGING,
    "docs/guides/processes.md": PROCESSES,
    "docs/guides/retries.md": RETRIES,
    "docs/guides/tasks.md": TYPES,
}
"""For each page what it promises, and which tests execute that."""
