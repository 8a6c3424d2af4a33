"""Which unit tests are slow: they run in `make test-all`, and not in `make test`.

Five seconds of processor time and more, measured one after the other with programs that
had been compiled before.
"""

import pytest

SLOW = {
    "test_batched_heads": (
        "test_a_batch_of_batches_is_one_batch",
        "test_all_kinds_of_problems",
        "test_slices_that_overlap_change_nothing",
        "test_whatever_is_wrong_is_told_as_of_one",
    ),
    "test_certificate": ("test_raw_columns_in_single_precision_are_as_in_double",),
    "test_clients": (
        "test_a_grid_of_clients_starts_from_solved_heads",
        "test_head_is_solved_and_the_network_trains_on",
        "test_log_probabilities_are_solved_for_as_logits",
    ),
    "test_center": (
        "test_a_network_keeps_near_the_head_it_has",
        "test_a_stream_and_a_path_about_a_head",
    ),
    "test_cross_entropy": (
        "test_a_norm_an_output_is_the_optimum_that_slsqp_finds",
        "test_a_norm_beyond_the_optimum_is_filled_along_the_free_direction",
        "test_a_stream_is_solved_like_arrays",
        "test_double_precision",
        "test_easy_problems_of_two_classes_are_all_solved",
        "test_far_features_and_halves_keep_their_digits",
        "test_label_smoothing_is_that_of_the_targets",
        "test_one_output_beyond_the_optimum_has_no_certificate",
        "test_separable_and_missing_classes_have_finite_heads",
        "test_vmap_equals_a_loop_and_compiles_once",
        "test_weights_count_examples_and_mask_them",
    ),
    "test_gaussian": ("test_a_network_gets_both_outputs",),
    "test_grid": (
        "test_a_grid_of_training_runs_is_a_loop_over_them",
        "test_devices_and_chunks_change_no_result",
        "test_devices_never_speak_to_each_other",
    ),
    "test_grid_program": ("test_members_without_a_solved_head_are_told",),
    "test_initializers": (
        "test_a_stream_equals_arrays",
        "test_an_ensemble_by_vmap_is_a_loop_over_seeds",
        "test_batch_normalisation_as_the_user_chose",
    ),
    "test_lagrangian": (
        "test_binary_heads_and_probabilities",
        "test_default_norm_generalises",
        "test_features_kept_or_computed_anew",
        "test_sequence_heads_count_positions",
    ),
    "test_least_squares": ("test_jit_equals_eager",),
    "test_losses": (
        "test_a_function_that_is_not_convex_has_no_certificate",
        "test_joint_thresholds_are_those_of_scipy",
        "test_thresholds_of_a_zero_kernel_are_log_odds",
    ),
    "test_several_axes": (
        "test_folds_are_of_the_examples_that_count",
        "test_softmax_is_of_the_last_axis",
        "test_weights_of_tokens_and_ignored_labels_are_a_cut",
    ),
    "test_mlp_grid": ("test_the_lagrangian_head_is_solved_for_inside_the_grid",),
    "test_norm_path": ("test_path_equals_single_solves",),
    "test_posterior": (
        "test_intervals_of_a_logistic_regression_cover_as_promised",
        "test_intervals_of_a_regression_cover_as_promised",
    ),
    "test_resolver": (
        "test_a_failed_solve_keeps_the_head",
        "test_a_family_under_make_train",
    ),
    "test_properties": (
        "test_a_head_is_certified_or_has_a_status",
        "test_parameters_are_solved_or_left_alone",
    ),
    "test_sharding": (
        "test_only_moments_travel_and_memory_does_not_grow_with_the_examples",
    ),
    "test_several_heads": (
        "test_pixels_are_rows_of_a_flat_problem",
        "test_several_heads_are_those_solved_one_by_one",
        "test_the_body_is_computed_once_for_all_heads",
    ),
}


def pytest_collection_modifyitems(items):
    for item in items:
        module = item.module.__name__.rpartition(".")[2]
        if item.originalname in SLOW.get(module, ()):
            item.add_marker(pytest.mark.slow)
